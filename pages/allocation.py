"""Allocation: sparsity of each layer's attention and MLP."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import streamlit as st

from nirvana.allocation.rules import uses_gamma
from nirvana.dashboard import selection, state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.allocation import (
    allocation_controls,
    explain_gamma,
    in_rounds,
    offer_reachable,
)
from nirvana.dashboard.panels.allocation_search import search, show_widths
from nirvana.dashboard.panels.budget import measure_once
from nirvana.dashboard.panels.charts import scores_protocol, show_chart
from nirvana.dashboard.panels.plan import cuts, other_stacks, outcome, picture
from nirvana.dashboard.panels.selected import detail
from nirvana.dashboard.panels.sensitivity import scan
from nirvana.dashboard.panels.what_if import unit_buttons, what_if
from nirvana.dashboard.replan import Draft, draft_plan, load_saliency
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import shares
from nirvana.reporting.figures.gamma import rates_by_gamma
from nirvana.saliency.scores import Saliency


def more(context: state.Context, scores: Saliency, draft: Draft, protocol: str) -> None:
    """Tabs of the plan's parts, and of its measurements."""
    plan, choice = draft.plan, context.recipe.allocation

    def planned(show: Callable[[PruningPlan], None]) -> None:
        if plan is None:
            st.caption("There is no plan with these choices.")
        else:
            show(plan)

    def rates(plan: PruningPlan) -> None:
        if not uses_gamma(choice.method, scores.criterion):
            st.caption("This allocation does not use gamma.")
            return
        drawn = rates_by_gamma(plan.layout, choice.sparsity, choice.gamma, draft.reachable)
        show_chart("allocation.rates", drawn, protocol)

    # The labels are always the same: with others Streamlit would open the first tab again.
    sections: dict[str, Callable[[], None]] = {
        "Cut": lambda: planned(lambda plan: cuts(scores, plan, protocol)),
        "Parameters": lambda: planned(
            lambda plan: show_chart("allocation.parts", shares.parameters_by_part(plan), protocol)
        ),
        "gamma": lambda: planned(rates),
        "What if": partial(what_if, context, scores, draft),
        "Loss curves": partial(scan, context, scores, plan),
        "Search": partial(search, context, plan),
        "How it works": explain_gamma,
    }
    page.tabs("allocation.tabs", sections)


def actions(plan: PruningPlan) -> None:
    with st.container(horizontal=True):
        if st.button("Continue to Prune", key="allocation.continue", type="primary"):
            st.switch_page("pages/prune.py")
        st.download_button(
            "Download the plan (JSON)",
            data=lambda: json.dumps(plan.to_json()),
            file_name="plan.json",
            mime="application/json",
            key="allocation.download",
            on_click="ignore",
        )


context = state.context()
page.page_header("allocation")
scores = load_saliency(context.run)
if scores is None:
    page.job_panel()
    page.empty_state("allocation", missing="saliency")
    search(context, None)
    st.stop()
if state.step_state("saliency") == "stale":
    st.warning(
        "The scores belong to earlier choices, so this plan is a preview. Pruning will score the units again first."
    )
protocol = scores_protocol(context.run, scores)
controls, stage = page.stage()
with controls:
    choice = allocation_controls(context.recipe.allocation, scores.layout, scores.criterion)
    show_widths(choice)
if choice != context.recipe.allocation:
    state.set_recipe(context.recipe.change("allocation", **vars(choice)))
    context = state.context()
with stage:
    draft = in_rounds(context, draft_plan(scores, choice, context.run))
    page.job_panel()
    if measure_once(context):
        pass
    elif draft.plan is None:
        page.show_error(draft.error)
        offer_reachable(draft)
    else:
        picture(draft.plan, protocol)
with controls:
    if draft.reachable:
        st.caption(f"With these constraints at most {draft.reachable:.2%} can be removed.")
    if draft.plan is not None:
        actions(draft.plan)
        if selection.chosen():
            detail("allocation", scores, draft.plan)
            now = selection.selected(scores.layout)
            if now.unit is not None:
                unit_buttons("allocation", scores.layout, now.site, now.unit, draft.plan)
if draft.plan is not None:
    outcome(draft.plan)
    other_stacks(draft.plan, protocol)
more(context, scores, draft, protocol)
page.show_code("allocation")
