"""Allocation: sparsity of each layer's attention and MLP."""

from __future__ import annotations

import json
import math

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
from nirvana.dashboard.replan import draft_plan, load_saliency
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


def charts(scores: Saliency, plan: PruningPlan, protocol: str) -> None:
    if len(plan.layout.stacks) > 1:
        show_chart("allocation.stacks", shares.kept_by_part(plan), protocol)
    for stack in plan.layout.stacks:
        show_chart(f"allocation.kept.{stack}", figures.kept_shares(plan, stack), protocol)
    pools = [kind for kind in (NEURON, KV_GROUP) if plan.layout.pool(kind)]
    for kind, column in zip(pools, st.columns(len(pools)), strict=True):
        with column:
            key = "allocation.scores.mlp" if kind == NEURON else "allocation.scores.attention"
            show_chart(key, figures.score_histogram(scores, plan, kind), protocol)
    show_chart("allocation.parts", shares.parameters_by_part(plan), protocol)


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
choice = allocation_controls(context.recipe.allocation, scores.layout, scores.criterion)
show_widths(choice)
if choice != context.recipe.allocation:
    state.set_recipe(context.recipe.change("allocation", **vars(choice)))
draft = in_rounds(state.context(), draft_plan(scores, choice, context.run.loss_curves()))
st.caption(f"With these constraints at most {draft.reachable:.2%} can be removed.")
if draft.plan is None:
    page.show_error(draft.error)
    offer_reachable(draft)
else:
    outcome(draft.plan)
    with st.container(horizontal=True):
        if st.button("Continue to Prune", key="allocation.continue", type="primary"):
            st.switch_page("pages/prune.py")
        st.download_button(
            "Download the plan (JSON)",
            data=lambda: json.dumps(draft.plan.to_json()) if draft.plan else "",
            file_name="plan.json",
            mime="application/json",
            key="allocation.download",
            on_click="ignore",
        )
    protocol = scores_protocol(context.run, scores)
    charts(scores, draft.plan, protocol)
    if uses_gamma(choice.method, scores.criterion):
        rates = figures.rates_by_gamma(scores.layout, choice.sparsity, choice.gamma, draft.reachable)
        show_chart("allocation.rates", rates, protocol)
scan(context, scores, draft.plan)
search(context, draft.plan)
with st.expander("How is the budget allocated?", key="allocation.about"):
    explain_gamma()
page.job_panel()
page.show_code("allocation")
