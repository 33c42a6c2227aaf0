"""Every page in every state that a run can be in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard.guide import GUIDES, PAGES
from nirvana.dashboard.state import DRAFT
from nirvana.models.devices import DeviceInfo
from nirvana.models.tiny import QUICK
from nirvana.reporting.estimates import UNKNOWN
from nirvana.reporting.text import megabytes
from nirvana.runs.pace import FORWARD, LOADING, record_pace
from nirvana.runs.recipe import STEPS, ModelChoice, Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import ROOT, add_job, tables
from tests.visitors import as_visitor

FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "pages").glob("*.py"))
Start = Callable[..., AppTest]


def visit(app: AppTest, file: str) -> AppTest:
    """Run the app, then a page of it, without an exception."""
    app.switch_page(file).run()
    assert not app.exception
    assert app.title[0].value == GUIDES[Path(file).stem].title
    return app


@pytest.mark.parametrize("file", FILES)
def test_page_alone_in_an_empty_home_leaves_nothing_behind(file: str, own_home: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    app = AppTest.from_file(str(ROOT / file)).run()
    assert not app.exception
    assert app.title[0].value == GUIDES[Path(file).stem].title
    assert set(psutil.Process().children(recursive=True)) == before


@pytest.mark.parametrize("file", FILES)
def test_page_on_the_example(file: str, start: Start) -> None:
    app = visit(start(), file)
    assert app.query_params["run"] == "example"


@pytest.mark.parametrize("file", FILES)
def test_page_of_a_brand_new_run(file: str, start: Start, store: Store) -> None:
    run = store.create(Recipe(), name="New")
    app = visit(start(run), file)
    assert app.query_params["run"] == run.id


@pytest.mark.parametrize("file", FILES)
def test_page_of_a_finished_run(file: str, start: Start, filled: Run) -> None:
    app = visit(start(filled), file)
    assert not app.error
    assert not app.warning
    if Path(file).stem in STEPS:
        assert not any("Nothing to show" in text.value for text in app.markdown)


@pytest.mark.parametrize("status", ["queued", "running"])
@pytest.mark.parametrize("file", FILES)
def test_page_while_a_job_is_live(file: str, status: str, start: Start, store: Store, filled: Run) -> None:
    for run in (filled, store.create(Recipe().change("allocation", sparsity=0.3), parent=filled)):
        add_job(run, status)
        app = visit(start(run), file)
        if Path(file).stem in (*STEPS, "home"):
            assert app.button(key="job.cancel").label == "Cancel"


@pytest.mark.parametrize("file", [page.path for page in PAGES if page.key in STEPS])
def test_page_of_a_failed_run_says_why_and_what_to_do(file: str, start: Start, store: Store) -> None:
    run = store.create(Recipe(), name="Failed")
    add_job(run, "failed", step="saliency", message="Memory *ran* out.", hint="Use fewer samples.")
    app = visit(start(run), file)
    assert any("Memory \\*ran\\* out." in box.value and "Use fewer samples." in box.value for box in app.error)


def test_sidebar_shows_the_run_its_model_and_the_job(start: Start, filled: Run) -> None:
    app = start(filled).run()
    assert app.sidebar.markdown[0].value == "**Filled**"
    assert "smollm2-135m on cpu, float32 · 4-bit origin" in app.sidebar.caption[0].value
    assert not app.sidebar.get("progress")
    add_job(filled, "running")
    assert start(filled).run().sidebar.get("progress")


def test_sidebar_leads_to_the_run_that_is_being_computed(start: Start, store: Store, filled: Run) -> None:
    busy = store.create(Recipe(), name="Busy")
    add_job(busy, "running")
    app = start(filled).run()
    assert app.button(key="sidebar.open_running").label == "Busy"
    app.button(key="sidebar.open_running").click().run()
    assert not app.exception
    assert app.query_params["run"] == busy.id


def test_interrupted_and_cancelled_runs_are_told_apart(start: Start, store: Store) -> None:
    run = store.create(Recipe())
    add_job(run, "cancelled", message="Cancelled.")
    assert any("cancelled" in note.value for note in visit(start(run), "pages/model.py").info)
    add_job(run, "interrupted", message="The program stopped.", hint="Start it again.")
    assert "The program stopped." in visit(start(run), "pages/model.py").error[0].value


def test_stale_results_are_marked_after_an_earlier_choice_changes(start: Start, filled: Run) -> None:
    app = visit(start(filled), "pages/saliency.py")
    app.selectbox(key="saliency.criterion").select("magnitude").run()
    assert not app.exception
    assert any("earlier choices" in box.value for box in app.warning)
    visit_again = app.switch_page("pages/allocation.py").run()
    assert any("earlier choices" in box.value for box in visit_again.warning)
    assert app.session_state["nirvana.draft"].saliency.criterion == "magnitude"


def test_numbers_behind_a_chart_come_when_they_are_asked_for(start: Start, filled: Run) -> None:
    app = visit(start(filled), "pages/model.py")
    assert not tables(app, "prunable")
    app.session_state["model.parts.table.open"] = True
    app.run()
    card = filled.model()
    assert card is not None
    assert tables(app, "prunable")[0]["parameters"].sum() == card.layout.parameters


def test_a_public_demo_offers_no_paths(start: Start, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIRVANA_PUBLIC_DEMO", "1")
    run = store.of("ann").create(Recipe().change("model", name="/somewhere/else"), name="Theirs")
    app = visit(start(), "pages/model.py")
    assert list(app.segmented_control(key="model.source").options) == ["Built in"]
    assert not app.text_input
    app.switch_page("pages/runs.py").run()
    assert not any("Theirs" in str(box.options) for box in app.selectbox)
    shared = visit(as_visitor(start(run), "ann"), "pages/saliency.py")
    shared.button(key="saliency.run").click().run()
    assert "built-in model" in shared.error[0].value
    assert store.open(run.id).status == "empty"


PROMISES = ["pages/home.py", "pages/calibration.py", "pages/prune.py", "pages/compare.py", "pages/sweep.py"]


@pytest.mark.parametrize("file", PROMISES)
def test_durations_are_expected_only_from_what_was_measured_here(file: str, start: Start, store: Store) -> None:
    """The example was computed on another machine: a run that has its results promises nothing by their timings."""

    def words() -> str:
        app = visit(start(run), file)
        return " ".join(element.value for element in (*app.markdown, *app.caption))

    example = store.open("example")
    run = store.create(example.recipe.change("calibration", length=200), parent=example)
    assert UNKNOWN in words()
    for model in (run.recipe.model, ModelChoice(name=QUICK)):
        record_pace(model, {FORWARD: 0.0001, LOADING: 2.0})
    assert UNKNOWN not in words() and "on this machine" in words()


STARTING = ["pages/model.py", "pages/calibration.py", "pages/saliency.py", "pages/prune.py", "pages/compare.py"]


@pytest.mark.parametrize("file", STARTING)
@pytest.mark.parametrize(("free", "fits"), [(1 << 40, True), (32 << 20, False)])
def test_memory_is_expected_before_the_button_is_pressed(
    file: str, free: int, fits: bool, start: Start, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [DeviceInfo("cpu", "CPU, 2 cores", free, 1 << 41)]
    for module in ("model", "cost", "sidebar"):
        monkeypatch.setattr(f"nirvana.dashboard.panels.{module}.devices_now", lambda: here)
    example = store.open("example")
    recipe = example.recipe.change("model", device="cpu").change("calibration", length=200, candidates=4)
    run = store.create(recipe, parent=example)
    app = visit(start(run), file)
    assert sum(f"peak of {megabytes(free)} free" in element.value for element in app.caption) == 1
    warned = [element.value for element in app.warning if "expected to need" in element.value]
    assert bool(warned) == (not fits and file != "pages/model.py"), "there the weights alone are an error"
    assert all("or close other programs" in words for words in warned)
    sidebar = start(run).run().sidebar.caption
    assert any(f"{megabytes(free)} of 2.2 TB free" in element.value for element in sidebar)


def test_labels_of_devices_are_unique_and_stay_while_their_free_memory_changes(
    start: Start, filled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser returns a label: with another one the choice would be lost."""
    free = iter(range(10 << 30, 1 << 40, 1 << 28))

    def found() -> list[DeviceInfo]:
        cards = [DeviceInfo(f"cuda:{index}", "NVIDIA A10G", next(free), 24 << 30) for index in range(2)]
        return [*cards, DeviceInfo("cpu", "CPU, 2 cores", next(free), 32 << 30)]

    monkeypatch.setattr("nirvana.dashboard.panels.model.devices_now", found)
    app = start(filled)
    app.switch_page("pages/model.py").run()
    labels = app.selectbox(key="model.device").options
    assert len(set(labels)) == 4
    app.selectbox(key="model.device").set_value("cuda:1").run()
    box = app.selectbox(key="model.device")
    assert box.options == labels and box.value == "cuda:1" and app.session_state[DRAFT].model.device == "cuda:1"
