"""The budget of a sparsity on the Allocation page: parameters, bytes or measured time."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nirvana.costs import PHASES
from nirvana.dashboard import state
from nirvana.dashboard.panels.fields import one_of, whole_number
from nirvana.dashboard.panels.metrics import metric
from nirvana.plan import PruningPlan
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import megabytes, milliseconds, plain
from nirvana.runs.costs import known_costs
from nirvana.runs.recipe import AllocationChoice

BUDGET = "allocation.budget"
NAMES = {"parameters": "Parameters", "bytes": "Bytes", "latency": "Time"}
PHASE_NAMES = {"prefill": "Prefill", "decode": "Decode"}
HELP = (
    "The sparsity is a share of this, over all attention and MLP modules. Parameters of attention and of the MLP take "
    "different times, which depend on the device, the length of the text and the phase. Bytes differ from parameters "
    "where weights have several formats. A budget in time needs a measurement of this model's shape on this device."
)


def budget_controls(choice: AllocationChoice) -> dict[str, Any]:
    """The budget whose share the sparsity is, and for time the phase and the size of the texts."""
    st.session_state.setdefault(BUDGET, choice.budget)
    budget = str(
        st.segmented_control(
            "Budget", list(NAMES), format_func=NAMES.__getitem__, key=BUDGET, required=True, wrap=True, help=HELP
        )
    )
    if budget != "latency":
        return {"budget": budget}
    assert set(PHASE_NAMES) == set(PHASES)
    with st.grid(3, min_column_width=110):
        phase = one_of("Phase", choice, "budget_phase", PHASE_NAMES, key="allocation.budget_phase")
        batch = whole_number("Texts at once", choice, "budget_batch")
        length = whole_number("Tokens", choice, "budget_length", "Of each prompt, or in the cache while decoding.")
    return {"budget": budget, "budget_phase": phase, "budget_batch": batch, "budget_length": length}


def measure_once(now: state.Context) -> bool:
    """A button that measures the costs of a budget in time, where the run has none; whether it is shown."""
    choice = now.recipe.allocation
    if choice.budget != "latency" or known_costs(now.run, choice) is not None:
        return False
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"**A budget in time needs the costs of {choice.budget_phase}** with "
            f"{count(choice.budget_batch, 'text')} of {count(choice.budget_length, 'token')}: seconds of attention and "
            "MLP by their size. They are measured once for this shape of model on this device."
        )
        if st.button(
            "Measure once",
            key="allocation.costs.run",
            icon=":material/timer:",
            disabled=now.job is not None,
            help="Copies of the model with layers of all sizes are timed. Other load on the machine adds noise.",
        ):
            protocol = choice.cost_protocol
            state.start_task("costs", phases=[protocol.pop("phase")], **protocol)
    return True


def budget_metrics(plan: PruningPlan) -> None:
    """Removed share of a budget in time or bytes, and the predicted speed-up."""
    found = plan.predicted
    if found is None or plan.budget == "parameters":
        return
    amount = milliseconds if plan.budget == "latency" else megabytes
    metric(
        "Time removed" if plan.budget == "latency" else "Bytes removed",
        f"{found.share:.3%}",
        f"{found.share - plan.requested:+.3%} of the target",
        f"{amount(found.removed)} of the {amount(found.prunable)} of all attention and MLP modules.",
    )
    if plan.budget == "latency":
        metric(
            "Predicted speed-up",
            f"{found.ratio:.2f} x",
            f"{milliseconds(found.pruned)} in place of {milliseconds(found.dense)}",
            "Of the whole model, with embeddings, norms and output head.",
        )


def budget_words(plan: PruningPlan) -> str:
    """The protocol of a predicted time; empty without one."""
    if plan.predicted is None or plan.budget != "latency":
        return ""
    where = plan.predicted.protocol
    words = (
        f"Time by measured costs: {where.get('phase')}, {where.get('batch')} x {where.get('length')} tokens, "
        f"{where.get('dtype')} on {where.get('device')}, {where.get('threads')} threads."
    )
    return plain(words)
