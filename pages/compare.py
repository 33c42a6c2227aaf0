"""Compare: the run's models measured on the same text, and comparison of runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import comparison, page
from nirvana.dashboard.panels.compare import (
    answer,
    bits,
    everything,
    explain,
    other_runs,
    peers,
    ratios,
    side_by_side,
    standing,
    summary,
    verdicts,
)
from nirvana.dashboard.panels.continuations import ask, history
from nirvana.dashboard.panels.evaluation import evaluation_controls, show_cost, usable
from nirvana.dashboard.panels.report import report_download
from nirvana.dashboard.panels.speed import speed
from nirvana.dashboard.panels.zero_shot import answers, explain_tasks, tasks_usable
from nirvana.evaluation.results import Report
from nirvana.evaluation.zero_shot.results import comparisons
from nirvana.reporting.standings import Standing


def models(now: state.Context) -> str:
    return "all" if "recover" in now.recipe.steps else "both"


def measure(now: state.Context, possible: bool) -> None:
    """Estimated cost, and the button."""
    done = state.state_of(now, "evaluate") == "done"
    if done:
        st.caption("This choice is measured.")
    else:
        show_cost(now)
    if st.button(
        "Measurements are current" if done else f"Measure {models(now)} models",
        key="compare.run",
        type="secondary" if done else "primary",
        disabled=done or now.job is not None or not possible,
        help="Also computes earlier steps that are not current. The dense model is measured once per text.",
    ):
        state.submit("evaluate")


def sections(
    now: state.Context, report: Report | None, mine: Standing | None, others: list[Standing]
) -> dict[str, Callable[[], None]]:
    """The tabs. Their labels are always the same: with others Streamlit would open the first tab again."""

    def measured(show: Callable[[Report], None]) -> None:
        if report is None:
            st.caption("Appears once the models are measured.")
        else:
            show(report)

    def pruned(show: Callable[[], None]) -> None:
        if now.run.info("prune") is None:
            st.caption("Appears once the model is pruned.")
        else:
            show()

    def measurements(report: Report) -> None:
        side_by_side(report)
        bits(report)

    def zero_shot(report: Report) -> None:
        if comparisons(report):
            answers(report)
        else:
            st.caption("No zero-shot task was measured. Choose some under Advanced.")

    def continuations() -> None:
        ask(now)
        history(now.run.continuations())

    def runs() -> None:
        if mine is not None:
            other_runs(mine, others)
        comparison.side_by_side(now)

    def explanation() -> None:
        explain()
        explain_tasks()

    return {
        "Continuations": lambda: pruned(continuations),
        "Measurements": lambda: measured(measurements),
        "Zero-shot": lambda: measured(zero_shot),
        "Speed and bytes": lambda: pruned(partial(speed, now)),
        comparison.OTHER_RUNS: runs,
        "All numbers": lambda: measured(partial(everything, now.run)),
        "How it is measured": explanation,
    }


now = state.context()
page.page_header("compare")
controls, picture = page.stage()
with controls:
    choice = evaluation_controls(now.recipe.evaluation)
if choice != now.recipe.evaluation:
    state.set_recipe(now.recipe.change("evaluation", **vars(choice)))
    st.rerun()
report = now.run.report()
with controls:
    measure(now, usable(choice) and tasks_usable(choice, now.run.model()))
    if report is not None:
        report_download(now.run)
mine = standing(now.run) if report is not None else None
others = peers(mine, now) if mine is not None else []
with picture:
    page.job_panel()
    if report is None:
        page.empty_state("compare", missing="evaluate" if now.run.info("prune") else "prune")
    else:
        if now.run.step_state("evaluate", now.recipe) == "stale":
            st.warning("What follows belongs to earlier choices. Measure again to bring it up to date.")
        answer(now.run, report)
        ratios(report)
        summary(now.run, report)
        verdicts(report, mine, others)
if comparison.WITH in st.query_params:
    st.session_state.setdefault(comparison.TABS, comparison.OTHER_RUNS)
page.tabs(comparison.TABS, sections(now, report, mine, others))
page.show_code("compare")
