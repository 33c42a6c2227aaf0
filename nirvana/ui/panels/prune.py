"""What pruning will do, and what it costs."""

from __future__ import annotations

import streamlit as st

from nirvana.layout import KV_GROUP, NEURON
from nirvana.plan import PruningPlan
from nirvana.runs.store import Run
from nirvana.ui.figures.chart import count
from nirvana.ui.text import megabytes


def preview(plan: PruningPlan, run: Run) -> None:
    """What would go, in a sentence, and what the model would weigh."""
    parts = []
    for kind in (KV_GROUP, NEURON):
        sites = plan.layout.pool(kind)
        units = sum(plan.layout[site].units for site in sites)
        gone = units - sum(len(plan.get(site, ())) for site in sites)
        if sites:
            parts.append(f"**{gone:,}** of {count(units, kind)}")
    before, after = plan.layout.parameters, plan.pruned_layout.parameters
    text = f"Pruning removes {' and '.join(parts)}: {plan.removed:,} parameters, {plan.sparsity:.2%} of those in "
    text += f"attention and MLP. The model goes from {before / 1e6:,.1f} M to **{after / 1e6:,.1f} M** parameters"
    card = run.model()
    if card and before:
        size = card.weight_bytes * after / before
        text += f", from {megabytes(card.weight_bytes)} to about **{megabytes(size)}** of memory"
    st.markdown(text + ".")


def cost(run: Run, steps: list[str]) -> str:
    """What will be computed, where, and how long the same steps took before."""
    card = run.model()
    seconds = {step: info["seconds"] for step in steps if (info := run.info(step)) and info.get("seconds") is not None}
    text = f"To do: {', '.join(steps)}" if steps else "Everything is current"
    if card:
        text += f"; on {card.device} in {card.dtype}"
    if seconds:
        text += f". Last time: {', '.join(f'{step} {value:,.1f} s' for step, value in seconds.items())}"
    return text + "."
