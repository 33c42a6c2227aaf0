"""State of a browser session: the open run, and the draft of its recipe that the pages edit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from nirvana.dashboard import selection
from nirvana.dashboard.guide import PAGES
from nirvana.dashboard.panels.messages import show_error
from nirvana.dashboard.visitors import visitor
from nirvana.errors import NirvanaError, RunError
from nirvana.files import data_folder
from nirvana.jobs.demo import check_job
from nirvana.jobs.queue import Job, JobManager
from nirvana.jobs.registry import find_task
from nirvana.jobs.visitor import VisitorJobs
from nirvana.layout import Layout
from nirvana.runs.recipe import STEPS, Recipe
from nirvana.runs.store import EXAMPLE, Run, Store
from nirvana.runs.validation import check_recipe
from nirvana.schema import Schema

RUN, DRAFT, PROBLEM = "nirvana.run", "nirvana.draft", "nirvana.problem"
READ = "nirvana.notices"
PREFIXES = {guide.key for guide in PAGES if guide.step}  # prefixes of widgets whose values are choices of a recipe
VIEWS = ("saliency.colour", "saliency.sort")  # views of a run, not choices


@dataclass(frozen=True, eq=False)
class Context:
    """The open run, the draft of its recipe, and its live job."""

    run: Run
    recipe: Recipe
    job: Job | None
    jobs: JobManager | VisitorJobs
    store: Store


def public_demo() -> bool:
    """Whether this server is a public demo, without paths and with built-in models and texts only."""
    return os.environ.get("NIRVANA_PUBLIC_DEMO") == "1"


def store() -> Store:
    """The runs of this machine's user; in a public demo, those of this visitor."""
    runs = _services(str(data_folder()))[0]
    return runs.of(visitor()) if public_demo() else runs


def jobs() -> JobManager | VisitorJobs:
    """The jobs of this machine's user; in a public demo, those of this visitor."""
    manager = _services(str(data_folder()))[1]
    return VisitorJobs(manager, visitor()) if public_demo() else manager


@st.cache_resource(show_spinner=False, on_release=lambda services: services[1].close())
def _services(root: str) -> tuple[Store, JobManager]:
    """One store and one job manager for all sessions of this server; no process starts before the first job."""
    runs = Store()
    return runs, JobManager(runs)


def context() -> Context:
    """`read_context`; on failure the page shows the error and stops."""
    try:
        return read_context()
    except NirvanaError as error:
        show_error(error)
        st.stop()


def read_context() -> Context:
    """The run of the URL, else of the session, else the example; the URL is updated. An unknown id opens the example,
    and `take_problem` returns the error. The selection and the draft's criterion follow the URL too.

    Raises:
        NirvanaError: the runs cannot be read.
    """
    wanted = st.query_params.get("run") or st.session_state.get(RUN) or EXAMPLE
    try:
        run = store().open(wanted)
    except RunError as error:
        named = f"The run {wanted[:40]!r} was asked for, and the example is shown. "
        st.session_state[PROBLEM] = RunError(error.message, named + error.hint)
        run = store().open(EXAMPLE)
    if st.session_state.get(RUN) != run.id:
        _adopt(run, keep_choices=RUN not in st.session_state)
    if st.query_params.get("run") != run.id:
        st.query_params["run"] = run.id
    card = run.model()
    _follow_link(None if card is None else card.layout)
    return Context(run, st.session_state[DRAFT], jobs().live(run.id), jobs(), store())


def open_run(run_id: str) -> None:
    """Open another run; its recipe replaces the draft. If it was deleted, `take_problem` returns the error."""
    try:
        _adopt(store().open(run_id), keep_choices=False)
        st.query_params["run"] = run_id
    except NirvanaError as error:
        st.session_state[PROBLEM] = error


def set_recipe(recipe: Recipe) -> None:
    """Change the draft. Nothing is computed or stored before `submit`."""
    st.session_state[DRAFT] = recipe


def step_state(step: str) -> str:
    """ "running" or "failed", of the open run's job at that step; else "done", "stale" or "missing" for the draft, or
    "off" where the draft leaves the step out.
    """
    now = context()
    return state_of(now, step)


def state_of(now: Context, step: str) -> str:
    """`step_state` for a given context."""
    if step not in now.recipe.steps:
        return "off"
    if now.job is not None and now.job.status == "running" and now.job.task == "run" and now.job.step == step:
        return "running"
    result = now.run.step_state(step, now.recipe)
    if result != "done":
        failure = now.run.failure()
        if failure is not None and failure["status"] == "failed" and failure["step"] == step:
            return "failed"
    return result


def submit(step: str, *, anew: bool = False) -> None:
    """Queue every step up to `step` that is not current, and rerun the page.

    The open run continues if its results are current for the draft. Otherwise, from the example, and `anew`, a new run
    starts with the results that are, and the old run is unchanged. An invalid draft is not queued; `take_problem`
    returns the error.
    """
    now = context()
    try:
        _check(now.recipe, step)
        _check_demo(now.run, now.recipe, "run", {"until": step})
        run = now.run
        if anew or run.is_example or _would_lose(now):
            run = now.store.create(now.recipe, parent=run)
        elif now.recipe != run.recipe:
            run = now.store.set_recipe(run.id, now.recipe)
        _queue(run, step)
    except NirvanaError as error:
        st.session_state[PROBLEM] = error
    st.rerun()


def start(recipe: Recipe, *, name: str = "", page: str = "", sweep: Schema | None = None) -> None:
    """Queue every step of `recipe` in a new run, open it, and switch to `page` or rerun this one.

    Args:
        sweep: a grid around the recipe that is measured before.
    """
    try:
        _check(recipe, STEPS[-1])
        grid = {} if sweep is None else {"sweep": sweep.to_json()}
        for task, arguments in {**grid, "run": {}}.items():
            _check_demo(None, recipe, task, arguments, room=len(grid) + 1)
        run = store().create(recipe, name=name)
        for task, arguments in grid.items():
            jobs().submit(run.id, task=task, **arguments)
        _queue(run, STEPS[-1])
    except NirvanaError as error:
        st.session_state[PROBLEM] = error
        page = ""
    if page:
        st.switch_page(page)
    st.rerun()


def measure_alike(first: Run, others: Sequence[Run]) -> list[str]:
    """Queue the evaluation of `others` by the protocol of `first` where it differs, each in a new run; returns the ids
    of all, in order.

    Raises:
        NirvanaError: a recipe cannot be run.
    """
    evaluation, found = first.recipe.evaluation, []
    spare = [run for run in visible_runs() if run.id not in {first.id, *(other.id for other in others)}]
    for run in others:
        if run.recipe.evaluation == evaluation:
            found.append(run.id)
            continue
        recipe = run.recipe.change("evaluation", **vars(evaluation))
        _check(recipe, STEPS[-1])
        _check_demo(run, recipe, "run", {})
        made = store().measured_like(run, evaluation, spare)
        if made.step_state(STEPS[-1]) != "done" and jobs().live(made.id) is None:
            jobs().submit(made.id)
        found.append(made.id)
    return found


def start_task(task: str, **arguments: Any) -> None:
    """Queue "export" or "continue" with the open run's pruned model, and rerun the page. The example is copied to a new
    run first. The draft is unchanged: a task reads results only.
    """
    now = context()
    try:
        _check_demo(now.run, now.run.recipe, task, arguments)
        run = now.store.create(now.run.recipe, parent=now.run) if now.run.is_example else now.run
        now.jobs.submit(run.id, task=task, **arguments)
        st.session_state[RUN] = run.id
        st.query_params["run"] = run.id
    except NirvanaError as error:
        st.session_state[PROBLEM] = error
    st.rerun()


def as_own(now: Context, recipe: Recipe) -> Run:
    """The run that `start_study` would use with `recipe`, to validate a request; the example is copied."""
    return replace(now.run, recipe=recipe, study="", index=now.store.index)


def start_study(task: str, recipe: Recipe, *, name: str = "", **arguments: Any) -> None:
    """Queue a study around `recipe`, such as a sweep, and rerun the page.

    The open run continues if it has that recipe; otherwise, and from the example, a new run starts with the results
    that are current.

    Args:
        name: of the new run, where the open one has another name.
    """
    now = context()
    try:
        _check(recipe, STEPS[-1])
        _check_demo(now.run, recipe, task, arguments)
        run = now.run
        if run.is_example or run.study or recipe != run.recipe or (name and name != run.name):
            run = now.store.create(recipe, name=name, parent=run)
        now.jobs.submit(run.id, task=task, **arguments)
        if run.id != now.run.id:
            _adopt(run, keep_choices=run.recipe == now.recipe)
        st.query_params["run"] = run.id
    except NirvanaError as error:
        st.session_state[PROBLEM] = error
    st.rerun()


def visible_runs() -> list[Run]:
    """The runs visible to this session, pinned ones first, without the example."""
    return store().runs()


def take_problem() -> NirvanaError | None:
    """The last error not shown by a page yet, once."""
    problem: NirvanaError | None = st.session_state.pop(PROBLEM, None)
    return problem


def notices() -> list[str]:
    """Notices about the index of runs that the session has not read yet; none in a public demo, since they name runs of
    all visitors.
    """
    return [] if public_demo() else store().index.notices[st.session_state.get(READ, 0) :]


def read_notices() -> None:
    st.session_state[READ] = len(store().index.notices)


def _check(recipe: Recipe, step: str) -> None:
    check_recipe(recipe, recipe.up_to(step))


def _check_demo(run: Run | None, recipe: Recipe, task: str, arguments: Mapping[str, Any], *, room: int = 1) -> None:
    """Validate a job for a public demo before a run is created for it; `VisitorJobs.submit` validates it again.

    Args:
        run: whose results are used.
        room: number of jobs that will be queued.
    """
    found = jobs()
    if isinstance(found, VisitorJobs):
        check_job(run, recipe, find_task(task).request.from_json(arguments))
        found.check_room(room)


def _queue(run: Run, step: str) -> None:
    """Submit, and open the run; its draft is that of the session's controls."""
    jobs().submit(run.id, until=step)
    _adopt(run, keep_choices=run.recipe == st.session_state[DRAFT])
    st.query_params["run"] = run.id


def _follow_link(layout: Layout | None) -> None:
    """Take the selection of the URL; a criterion from there is the draft's."""
    before: Recipe = st.session_state[DRAFT]
    recipe = selection.follow_link(before, layout)
    if recipe != before:
        st.session_state[DRAFT] = recipe
        st.session_state["saliency.criterion"] = recipe.saliency.criterion


def _would_lose(now: Context) -> bool:
    """Whether the draft would make a current result stale, or change the recipe of a live job."""
    held = [step for step in now.run.recipe.steps if now.run.step_state(step) == "done"]
    lost = any(now.run.step_state(step, now.recipe) != "done" for step in held)
    return lost or (now.job is not None and now.recipe != now.run.recipe)


def _adopt(run: Run, *, keep_choices: bool) -> None:
    st.session_state[RUN] = run.id
    st.session_state[DRAFT] = run.recipe
    if not keep_choices:
        for key in [str(key) for key in st.session_state]:
            if key.partition(".")[0] in PREFIXES and key not in VIEWS:
                del st.session_state[key]
