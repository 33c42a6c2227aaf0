"""Controls of the Prune page, and the cost of pruning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.cost import expected, warn, words
from nirvana.dashboard.panels.fields import whole_number
from nirvana.layout import KV_GROUP, NEURON
from nirvana.plan import PruningPlan
from nirvana.reporting.estimates import total_seconds
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import megabytes
from nirvana.runs.describe import COMPENSATIONS, compensation
from nirvana.runs.pace import read_pace
from nirvana.runs.recipe import PruneChoice
from nirvana.runs.store import Run

METHOD = "prune.compensation"
MEANINGS = {
    "none": "No compensation for the removed units",
    "bias": "Their mean contribution becomes a bias, as in FLAP (arXiv 2312.11983); needs a pass over some text",
    "least_squares": (
        "The remaining weights of each output projection are fitted to its dense outputs; needs a pass over some "
        "text, and memory for the statistics"
    ),
}
NUMBERS = {"samples": "Samples", "length": "Tokens in a sample", "seed": "Seed of the draw"}


def compensation_controls(choice: PruneChoice) -> PruneChoice:
    """Controls of the compensation and its statistics, starting from `choice`."""
    st.session_state.setdefault(METHOD, choice.compensation)
    method = st.radio(
        "Compensation",
        list(MEANINGS),
        key=METHOD,
        format_func=lambda name: COMPENSATIONS[name].capitalize(),
        help=(
            "Attention and MLP each end in an **output projection**, which loses inputs when units are removed. "
            "Compensation changes it, without training, so that its output stays close to the dense one."
        ),
    )
    st.caption(f"{MEANINGS[method]}.")
    if method == "none":
        return choice.with_values(compensation=method)
    numbers = {}
    with st.expander("Advanced", key="prune.advanced"):
        st.caption("The statistics are of samples drawn from the calibration text; more samples fit better.")
        for name, label in NUMBERS.items():
            numbers[name] = whole_number(label, choice, name)
    return choice.with_values(compensation=method, **numbers)


def compensated(record: dict[str, Any]) -> str:
    """Method and data of the compensation, in a sentence; empty without compensation."""
    if not record:
        return ""
    tokens = " and ".join(
        f"{count:,}" + (f" {stack}" if len(record["tokens"]) > 1 else "") for stack, count in record["tokens"].items()
    )
    texts = ", ".join(f"{each['samples']} samples of {each['source']}, seed {each['seed']}" for each in record["sets"])
    how = [f"regularisation {record['regularisation']:g}"] if "regularisation" in record else []
    if record.get("seconds") is not None:
        how.append(f"collected in {record['seconds']:,.1f} s" + (", cached" if record.get("cached") else ""))
    title = "".join(compensation(record["method"]))
    return f"Compensation: {title}, from {tokens} tokens ({texts}){''.join(f'; {part}' for part in how)}."


def preview(plan: PruningPlan, run: Run) -> None:
    """Units that would be removed, in a sentence, and the size of the pruned model."""
    parts = []
    for kind in (KV_GROUP, NEURON):
        sites = plan.layout.pool(kind)
        units = sum(plan.layout[site].units for site in sites)
        gone = units - sum(len(plan.get(site, ())) for site in sites)
        if sites:
            parts.append(f"**{gone:,}** of {count(units, kind)}")
    before, after = plan.layout.parameters, plan.pruned_layout.parameters
    text = f"Pruning removes {' and '.join(parts)}: {plan.removed:,} parameters, {plan.sparsity:.2%} of those in "
    text += f"attention and MLP. The model shrinks from {before / 1e6:,.1f} M to **{after / 1e6:,.1f} M** parameters"
    card = run.model()
    if card and before:
        size = card.weight_bytes * after / before
        text += f", from {megabytes(card.weight_bytes)} to about **{megabytes(size)}** of memory"
    st.markdown(text + ".")


def show_cost(now: state.Context, steps: Sequence[str]) -> None:
    """Steps to compute, expected duration and memory, and device, with a warning where the memory does not suffice."""
    card, memory = now.run.model(), expected(now, steps)
    text = "All steps are current"
    if steps:
        seconds = total_seconds(steps, now.recipe, read_pace(now.recipe.model))
        text = f"To do: {', '.join(steps)}: {words(seconds, memory)}"
    if card:
        text += f"; on {card.device} in {card.dtype}"
    st.caption(f"{text}.")
    warn(memory)
