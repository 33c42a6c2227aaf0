"""Compare: the run's models measured on the same text, and comparison of runs."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import comparison, page
from nirvana.dashboard.panels.compare import (
    charts,
    everything,
    explain,
    other_runs,
    peers,
    side_by_side,
    standing,
    verdicts,
)
from nirvana.dashboard.panels.continuations import ask, history
from nirvana.dashboard.panels.evaluation import cost, evaluation_controls, usable
from nirvana.dashboard.panels.report import report_download
from nirvana.dashboard.panels.speed import speed
from nirvana.dashboard.panels.zero_shot import answers, explain_tasks, task_controls, tasks_usable


def models(now: state.Context) -> str:
    return "all" if "recover" in now.recipe.steps else "both"


def measure(now: state.Context, possible: bool) -> None:
    """Estimated cost, and the button."""
    done = state.state_of(now, "evaluate") == "done"
    st.caption("This choice is measured." if done else cost(now.recipe))
    if st.button(
        "Measurements are current" if done else f"Measure {models(now)} models",
        key="compare.run",
        type="secondary" if done else "primary",
        disabled=done or now.job is not None or not possible,
        help="Also computes earlier steps that are not current. The dense model is measured once per text.",
    ):
        state.submit("evaluate")


now = state.context()
page.page_header("compare")
choice = task_controls(evaluation_controls(now.recipe.evaluation))
if choice != now.recipe.evaluation:
    state.set_recipe(now.recipe.change("evaluation", **vars(choice)))
    st.rerun()
measure(now, usable(choice) and tasks_usable(choice, now.run.model()))
page.job_panel()
report = now.run.report()
if report is None:
    page.empty_state("compare", missing="evaluate" if now.run.info("prune") else "prune")
else:
    stale = now.run.step_state("evaluate", now.recipe) == "stale"
    if stale:
        st.warning("What follows belongs to earlier choices. Measure again to bring it up to date.")
    mine = standing(now.run)
    others = peers(mine, now) if mine is not None else []
    verdicts(now.run, report, mine, others)
    side_by_side(report)
    charts(report)
    answers(report)
    if mine is not None:
        other_runs(mine, others)
    comparison.side_by_side(now)
    everything(now.run, report)
    report_download(now.run)
if now.run.info("prune") is not None:
    speed(now)
    st.markdown("### Continue a prompt with each model")
    ask(now)
    history(now.run.continuations())
with st.expander(
    "What are perplexity, bits per byte, accuracy and standard error?", icon=":material/help:", key="compare.about"
):
    explain()
    explain_tasks()
page.show_code("compare")
