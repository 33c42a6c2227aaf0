"""The plan of the draft recipe, allocated on each rerun from scores with cached ranks."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from nirvana.allocation.allocate import allocate, reachable_sparsity
from nirvana.errors import PlanError
from nirvana.plan import PruningPlan
from nirvana.runs.costs import known_costs
from nirvana.runs.recipe import AllocationChoice
from nirvana.runs.store import Run
from nirvana.saliency.scores import Saliency


class Draft(NamedTuple):
    """`plan` is None with an `error`; `reachable` is the highest sparsity with these constraints."""

    plan: PruningPlan | None
    error: PlanError | None
    reachable: float


def load_saliency(run: Run) -> Saliency | None:
    """The run's scores with their ranks, or None. Read and sorted once per result."""
    info = run.info("saliency")
    return _ranked(run.id, str(info["fingerprint"]), run) if info else None


@st.cache_resource(max_entries=12, show_spinner="Ranking the scores")
def _ranked(run_id: str, fingerprint: str, _run: Run) -> Saliency | None:
    saliency = _run.saliency()
    if saliency is not None:
        # Computed here, so that no slider move waits for the sort and no two sessions compute it.
        _ = saliency.sorted_ranks, saliency.sorted_scores, saliency.hash
    return saliency


def draft_plan(saliency: Saliency, choice: AllocationChoice, run: Run | None = None) -> Draft:
    """Allocate by `choice`; an impossible request is returned as the error.

    Args:
        run: whose loss curves and cost tables the measured allocation and a budget in time use.

    The draft of a choice with several rounds is that of one.
    """
    reachable = 0.0
    curves = run.loss_curves() if run is not None and choice.method == "measured" else None
    constraints = {**choice.one_round, "costs": known_costs(run, choice) if run is not None else None}
    without_limits = {name: constraints.pop(name) for name in ("sparsity", "normalisation", "widths", "edits")}
    try:
        reachable = reachable_sparsity(saliency.layout, criterion=saliency.criterion, **constraints)
        plan = allocate(saliency, sensitivity=curves, **constraints, **without_limits)
    except PlanError as error:
        return Draft(None, error, reachable)
    return Draft(plan, None, reachable)
