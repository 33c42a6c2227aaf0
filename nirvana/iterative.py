"""Iterative pruning: score, allocate and prune repeatedly, each time a part of the sparsity."""

from __future__ import annotations

from typing import NamedTuple

from nirvana.allocation.allocate import allocate
from nirvana.allocation.constraints import Protected
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.errors import PlanError
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback, within
from nirvana.saliency.score import score
from nirvana.surgery import prune


class Iterated(NamedTuple):
    """The pruned model, and the single plan that makes it from the original."""

    lm: LM
    plan: PruningPlan


def prune_iteratively(
    lm: LM,
    calibration: CalibrationSet | CalibrationSelection | None,
    *,
    sparsity: float,
    steps: int,
    criterion: str = "nirvana",
    gamma: float = 3.36,
    multiple_of: int = 8,
    protected: Protected = (),
    uniform: bool = False,
    method: str = "shared",
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Iterated:
    """Prune `lm` to `sparsity` in equal steps, scoring the remaining units before each; one step is one-shot pruning.

    After step k of n, k/n of the weights to remove are removed; a step's unspent budget is added to the next. gamma
    ties the rates of each step, as shares of the remaining weights. `lm` is unchanged.

    Args:
        calibration: (N, T) tokens for the scores of every step; None for criteria that use weights only.
        sparsity: fraction of the attention and MLP parameters of `lm` to remove, in (0, 1).
        steps: from 1.
        criterion, seed: as for `score`.
        gamma, multiple_of, protected, uniform, method: as for `allocate`.
        progress: called several times a second; may raise `Cancelled`.

    Raises:
        PlanError: `steps` is not positive, a value is invalid, or the sparsity is out of reach.
        SaliencyError: the criterion is unknown, or the calibration set does not suit the model.
        ModelError: the weights are not in memory.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise PlanError(f"The number of steps must be a whole number from 1, not {steps}.", "Use 1 for one shot.")
    constraints = {"gamma": gamma, "multiple_of": multiple_of, "uniform": uniform, "method": method}
    guarded, whole = tuple(protected), lm.layout.prunable
    current: LM = lm
    plan: PruningPlan | None = None
    for step in range(1, steps + 1):
        gone = plan.removed if plan is not None else 0
        share = (sparsity * step / steps * whole - gone) / current.layout.prunable
        part = within(progress, f"Step {step} of {steps}", step - 1, steps)
        saliency = score(current, calibration, criterion=criterion, seed=seed, progress=part)
        chosen = allocate(saliency, sparsity=share, protected=guarded, **constraints)  # type: ignore[arg-type]
        smaller = prune(current, chosen)
        if current is not lm:
            current.unload()
        current, plan = smaller, chosen if plan is None else plan.then(chosen, requested=sparsity)
    assert plan is not None
    return Iterated(current, plan)
