"""The job of the open run: progress, log, cancellation and failure."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.guide import STEP_GUIDES
from nirvana.dashboard.panels.messages import message
from nirvana.errors import RunError
from nirvana.jobs.queue import Job
from nirvana.jobs.registry import TASKS
from nirvana.reporting.estimates import Pace, time_left
from nirvana.reporting.text import duration, plain
from nirvana.runs.pace import read_pace
from nirvana.runs.recipe import STEPS, Recipe
from nirvana.runs.recovery import interrupted

POLL = 0.5  # seconds
LINES = 40


def job_panel(now: state.Context | None = None) -> None:
    """Progress with a cancel button while a job of the open run is live; else the failure of the last one. It polls,
    and reruns the page when a step or the job ends.

    Args:
        now: the context that the page was drawn from, where it depends on the step.
    """
    now = now or state.context()
    if now.job is None:
        last_failure(now)
    else:
        until = now.job.arguments.get("until", STEPS[-1])
        todo = [step for step in now.run.recipe.up_to(until) if now.run.step_state(step) != "done"]
        recipe = now.run.recipe
        st.fragment(_live, run_every=POLL)(now.job.id, now.job.step, recipe, todo, read_pace(recipe.model))


def _live(job_id: str, step: str, recipe: Recipe, todo: Sequence[str], pace: Pace) -> None:
    jobs = state.jobs()
    try:
        job = jobs.job(job_id)
    except RunError:  # its run was deleted in another tab
        st.rerun()
    if not job.live or job.step != step:
        st.rerun()
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            show_progress(job)
            trains = job.step == "recover"
            if st.button(
                "Pause" if trains else "Cancel",
                key="job.cancel",
                icon=":material/pause_circle:" if trains else ":material/stop_circle:",
                help="The state of the training is kept, and it continues from there."
                if trains
                else "Finished steps are kept.",
            ):
                try:
                    jobs.cancel(job_id)
                except RunError as error:
                    message(error.message, error.hint)
        if job.text:
            st.code(job.text, language=None, wrap_lines=True)
        st.caption(_timing(job, recipe, todo, pace))
        _log(job_id)


def show_progress(job: Job) -> None:
    """Progress bar of the current step, if its length is known."""
    st.progress(job.fraction, text=f"**{title(job)}**{_stage(job)}")


def title(job: Job) -> str:
    """E.g. "Saliency, step 2 of 4", "Waiting, number 2 in the queue"."""
    if job.status == "queued":
        return f"Waiting, number {job.position} in the queue"
    if job.task != "run":
        part = f", {job.step_number} of {job.steps}" if job.steps > 1 else ""
        return (TASKS[job.task].title if job.task in TASKS else job.task) + part
    if not job.step:
        return "Starting"
    return f"{STEP_GUIDES[job.step].title}, step {job.step_number} of {job.steps}"


def _stage(job: Job) -> str:
    if job.status == "queued" or not job.stage:
        return ""
    return f" · {plain(job.stage)}" + (f" {job.done:,}/{job.total:,}" if 1 < job.total < 1000 else "")


def _timing(job: Job, recipe: Recipe, todo: Sequence[str], pace: Pace) -> str:
    if job.status == "queued":
        return f"On {plain(job.device)}, behind the jobs before it."
    return f"{duration(job.elapsed)} so far, on {plain(job.device)}; {time_left(job, recipe, todo, pace)}."


def _log(job_id: str) -> None:
    with st.expander("Log", type="compact", key="job.log"):
        st.code("\n".join(state.jobs().log(job_id, LINES)) or "Nothing yet.", language=None, height=180)


def last_failure(now: state.Context) -> None:
    """Failure of the run's last job."""
    failure = now.run.failure()
    if failure is None:
        return
    if failure["status"] == "cancelled":
        if interrupted(now.run, now.recipe) is None:
            st.info("The last job was cancelled. Finished steps are kept.", icon=":material/stop_circle:")
        return
    where = f"{STEP_GUIDES[failure['step']].title}: " if failure["step"] in STEP_GUIDES else ""
    message(f"{where}{failure['message']}", failure["hint"])
    last = next(iter(now.jobs.jobs(now.run.id, limit=1)), None)
    if last is not None:
        _log(last.id)
