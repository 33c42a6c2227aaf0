"""Allocation: sparsity of each layer's attention and MLP."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial

import streamlit as st

from nirvana.allocation.rules import uses_gamma
from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.allocation import (
    allocation_controls,
    explain_gamma,
    in_rounds,
    offer_reachable,
    smallest_step,
)
from nirvana.dashboard.panels.allocation_search import search, show_widths
from nirvana.dashboard.panels.charts import scores_protocol, show_chart
from nirvana.dashboard.panels.messages import show_notes
from nirvana.dashboard.panels.metrics import metric
from nirvana.dashboard.panels.sensitivity import scan
from nirvana.dashboard.replan import Draft, draft_plan, load_saliency
from nirvana.layout import KV_GROUP, NEURON
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import allocation as figures
from nirvana.reporting.figures import shares
from nirvana.reporting.text import millions
from nirvana.saliency.scores import Saliency


def outcome(plan: PruningPlan) -> None:
    """The budget: target, achieved sparsity, and removed parts."""
    budget = math.floor(plan.requested * plan.layout.prunable + 1e-6)
    total = plan.layout.parameters
    with st.container(horizontal=True):
        metric(
            "Achieved sparsity",
            f"{plan.sparsity:.5f}",
            f"{plan.sparsity - plan.requested:+.5f} of the target",
            f"Removed over prunable weights. It is below the target by less than {smallest_step(plan)}.",
        )
        metric("Attention removed", f"{plan.rate(KV_GROUP):.1%}")
        metric("MLP removed", f"{plan.rate(NEURON):.1%}")
        size = plan.pruned_layout.parameters
        metric("Parameters", millions(size), f"{size / total - 1:.1%} of {millions(total)}")
    st.caption(
        f"Target {budget:,} weights, removed {plan.removed:,}: {budget - plan.removed:,} short of it. "
        f"The smallest step is {smallest_step(plan)}."
    )
    show_notes(plan.notes)


def picture(plan: PruningPlan, protocol: str) -> None:
    """The first chart: kept shares of the first stack."""
    show_chart(f"allocation.kept.{plan.layout.stacks[0]}", figures.kept_shares(plan, plan.layout.stacks[0]), protocol)
    st.caption(protocol)


def other_stacks(plan: PruningPlan, protocol: str) -> None:
    """Of an encoder-decoder, the kept shares by stack, and those of the decoder by layer."""
    if len(plan.layout.stacks) > 1:
        show_chart("allocation.stacks", shares.kept_by_part(plan), protocol)
    for stack in plan.layout.stacks[1:]:
        show_chart(f"allocation.kept.{stack}", figures.kept_shares(plan, stack), protocol)


def cuts(scores: Saliency, plan: PruningPlan, protocol: str) -> None:
    """Histograms of the scores with the cut."""
    pools = [kind for kind in (NEURON, KV_GROUP) if plan.layout.pool(kind)]
    for kind, column in zip(pools, st.columns(len(pools)), strict=True):
        with column:
            key = "allocation.scores.mlp" if kind == NEURON else "allocation.scores.attention"
            show_chart(key, figures.score_histogram(scores, plan, kind), protocol)


def more(context: state.Context, scores: Saliency, draft: Draft, protocol: str) -> None:
    """What the plan consists of, and what measurements say of it; a tab each."""
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
        drawn = figures.rates_by_gamma(plan.layout, choice.sparsity, choice.gamma, draft.reachable)
        show_chart("allocation.rates", drawn, protocol)

    # The labels are always the same: with others Streamlit would open the first tab again.
    sections: dict[str, Callable[[], None]] = {
        "Cut": lambda: planned(lambda plan: cuts(scores, plan, protocol)),
        "Parameters": lambda: planned(
            lambda plan: show_chart("allocation.parts", shares.parameters_by_part(plan), protocol)
        ),
        "gamma": lambda: planned(rates),
    }
    sections["Loss curves"] = partial(scan, context, scores, plan)
    sections["Search"] = partial(search, context, plan)
    sections["How it works"] = explain_gamma
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
    draft = in_rounds(context, draft_plan(scores, choice, context.run.loss_curves()))
    page.job_panel()
    if draft.plan is None:
        page.show_error(draft.error)
        offer_reachable(draft)
    else:
        picture(draft.plan, protocol)
with controls:
    st.caption(f"With these constraints at most {draft.reachable:.2%} can be removed.")
    if draft.plan is not None:
        actions(draft.plan)
if draft.plan is not None:
    outcome(draft.plan)
    other_stacks(draft.plan, protocol)
more(context, scores, draft, protocol)
page.show_code("allocation")
