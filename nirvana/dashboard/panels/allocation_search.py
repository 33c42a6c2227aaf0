"""The allocation search on the Allocation page: live, and the run with its best plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.fields import whole_number
from nirvana.dashboard.panels.metrics import metric
from nirvana.dashboard.study_panel import StudyPanel
from nirvana.errors import PlanError
from nirvana.layout import Layout
from nirvana.loss_curves import PROBE
from nirvana.plan import PruningPlan
from nirvana.reporting.allocation_search import (
    command_line,
    headline,
    protocol_words,
    python_code,
    searched_choice,
)
from nirvana.reporting.figures import allocation_search as figures
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import duration
from nirvana.runs.recipe import AllocationChoice
from nirvana.studies.allocation_search import AllocationStudy, SearchRequest
from nirvana.studies.allocation_steps import SearchStep, accepted, changed_widths, read_steps, start_widths

MINUTES, SEED = "allocation.search.minutes", "allocation.search.seed"
STUDY = AllocationStudy()
PANEL = StudyPanel(STUDY, "allocation.search", "step", lambda run: [step.seconds for step in read_steps(run.folder)[1]])


def search(now: state.Context, plan: PruningPlan | None) -> None:
    """Controls, progress and results of a search from `plan`, that of the controls above; None shows a search alone."""
    settings, steps = read_steps(now.run.folder)
    if plan is None and settings is None:
        return
    st.markdown("### Does another allocation of the same budget measure better?")
    st.markdown(
        "The search exchanges units between modules of a kind and keeps a plan if its KL to the dense model is lower. "
        "The budget stays exact. A second probe, which does not choose, shows what the search really gains."
    )
    if plan is not None:
        _start(now, plan, settings, steps)
    PANEL.watch(now)
    if settings is not None and accepted(steps):
        _results(now, settings, steps)
    PANEL.failures([(f"Step {step.number}", step.failure) for step in steps if step.failure])


def _start(now: state.Context, plan: PruningPlan, settings: dict[str, Any] | None, steps: Sequence[SearchStep]) -> None:
    st.session_state.setdefault(MINUTES, int(SearchRequest().minutes))
    with st.grid(4, min_column_width=160):
        minutes = PANEL.minutes(MINUTES)
        seed = whole_number("Seed", SearchRequest(), "seed", key=SEED)
    request = SearchRequest(minutes=float(minutes), seed=seed)
    if not PANEL.is_valid(now, request, now.recipe, "Search"):
        return
    current = settings is not None and settings["seed"] == seed and start_widths(settings) == plan.widths
    spent = [step.seconds for step in steps[1:]]
    caption = f"Measures plans for {count(minutes, 'minute')} on {PROBE[0]} x {PROBE[1]} probe tokens"
    if current and spent:
        caption += f"; a step took {duration(sum(spent) / len(spent))} on average"
    PANEL.start(
        now,
        request,
        now.recipe,
        label=f"Continue with step {len(steps)}" if current and steps else "Search",
        caption=f"{caption}, with the compensation of the Prune page.",
        help="Starts from the plan above. Finished steps are kept if you stop.",
        kind="secondary",
    )
    PANEL.code(python_code(now.recipe, request), command_line(now.recipe, request))


def _results(now: state.Context, settings: dict[str, Any], steps: Sequence[SearchStep]) -> None:
    protocol = protocol_words(settings)
    with st.grid(3, min_column_width=170):
        for label, value, change in headline(steps):
            metric(label, value, change, "Of the best plan, and relative to the plan that the search started from.")
        metric("Plans tried", f"{len(steps) - 1:,}", f"{len(accepted(steps)) - 1:,} accepted")
    show_chart("allocation.search.kl", figures.kl_by_step(steps), protocol)
    for stack in Layout.from_json(settings["layout"]).stacks:
        show_chart(f"allocation.search.moved.{stack}", figures.moved_by_layer(settings, steps, stack), protocol)
    if not changed_widths(start_widths(settings), steps):
        return
    try:
        choice = searched_choice(now.run.recipe.allocation, settings, steps)
    except PlanError as error:
        st.caption(f"The widths cannot be taken over. {error}")
        return
    if st.button(
        "Use the best plan",
        key="allocation.search.use",
        icon=":material/check:",
        disabled=choice == now.recipe.allocation or now.job is not None,
        help="Sets the widths of the changed modules in place of the rule's. The plan above then shows them.",
    ):
        state.set_recipe(now.recipe.with_values(allocation=choice))
        st.rerun()


def show_widths(choice: AllocationChoice) -> None:
    """The number of widths that replace the rule's, with a button that removes them."""
    if not choice.widths:
        return
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f"The widths of **{count(len(choice.widths), 'module')}** replace the rule's.")
        st.button(
            "Back to the rule's",
            key="allocation.widths.clear",
            icon=":material/undo:",
            on_click=_clear_widths,
            help=", ".join(choice.widths[:20]) + (", ..." if len(choice.widths) > 20 else ""),
        )


def _clear_widths() -> None:
    state.set_recipe(state.context().recipe.change("allocation", widths=()))
