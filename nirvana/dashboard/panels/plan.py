"""A plan on the Allocation page: budget, kept shares, and the cut in the scores."""

from __future__ import annotations

import math

import streamlit as st

from nirvana.dashboard.panels.allocation import smallest_step
from nirvana.dashboard.panels.budget import budget_metrics, budget_words
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.messages import show_notes
from nirvana.dashboard.panels.metrics import metric
from nirvana.dashboard.panels.selected import over_layers, take_layer_click
from nirvana.layout import KV_GROUP, NEURON
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import allocation as figures
from nirvana.reporting.figures import shares
from nirvana.reporting.text import millions
from nirvana.saliency.scores import Saliency


def outcome(plan: PruningPlan) -> None:
    """The budget: target, achieved sparsity, and removed parts."""
    by_parameters = plan.budget == "parameters"
    below = f" It is below the target by less than {smallest_step(plan)}."
    total = plan.layout.parameters
    with st.container(horizontal=True):
        budget_metrics(plan)
        metric(
            "Achieved sparsity",
            f"{plan.sparsity:.3%}",
            f"{100 * (plan.sparsity - plan.requested):+.3f} points from the target"
            if by_parameters
            else "of the parameters",
            "Removed over prunable weights." + (below if by_parameters and not plan.edits else ""),
        )
        metric("Attention removed", f"{plan.rate(KV_GROUP):.1%}")
        metric("MLP removed", f"{plan.rate(NEURON):.1%}")
        size = plan.pruned_layout.parameters
        metric("Parameters", millions(size), f"{size / total - 1:.1%} of {millions(total)}")
    if by_parameters:
        st.caption(_target(plan))
    elif budget_words(plan):
        st.caption(budget_words(plan))
    show_notes(plan.notes)


def _target(plan: PruningPlan) -> str:
    budget = math.floor(plan.requested * plan.layout.prunable + 1e-6)
    apart = budget - plan.removed
    side = "short of" if apart >= 0 else "above"
    return f"Target {budget:,} weights, removed {plan.removed:,}: {abs(apart):,} {side} it. " + (
        "Edits by hand do not restore the budget." if plan.edits else f"The smallest step is {smallest_step(plan)}."
    )


def picture(plan: PruningPlan, protocol: str) -> None:
    """The first chart: kept shares of the first stack."""
    kept(plan, plan.layout.stacks[0], protocol)
    st.caption(protocol)


def kept(plan: PruningPlan, stack: str, protocol: str) -> None:
    """Kept shares of one stack; a click selects a layer."""
    take_layer_click(f"allocation.kept.{stack}", plan.layout, stack)
    chart = over_layers(figures.kept_shares(plan, stack), plan.layout, stack)
    show_chart(f"allocation.kept.{stack}", chart, protocol, clickable=True)


def other_stacks(plan: PruningPlan, protocol: str) -> None:
    """Kept shares by stack, and those of the decoder by layer, for an encoder-decoder."""
    if len(plan.layout.stacks) > 1:
        show_chart("allocation.stacks", shares.kept_by_part(plan), protocol)
    for stack in plan.layout.stacks[1:]:
        kept(plan, stack, protocol)


def cuts(scores: Saliency, plan: PruningPlan, protocol: str) -> None:
    """Histograms of the scores with the cut."""
    pools = [kind for kind in (NEURON, KV_GROUP) if plan.layout.pool(kind)]
    for kind, column in zip(pools, st.columns(len(pools)), strict=True):
        with column:
            key = "allocation.scores.mlp" if kind == NEURON else "allocation.scores.attention"
            show_chart(key, figures.score_histogram(scores, plan, kind), protocol)
