"""Iterative pruning: score, allocate and prune repeatedly, each time a part of the sparsity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from nirvana.allocation.allocate import allocate
from nirvana.allocation.budgets import read_budget
from nirvana.allocation.constraints import Protected
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.compensation import Compensation
from nirvana.compensation.statistics import collect_statistics
from nirvana.costs import CostTable
from nirvana.errors import CompensationError, PlanError
from nirvana.loss_curves import Sensitivity
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback, within
from nirvana.saliency.score import score
from nirvana.saliency.scores import Saliency
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
    saliency: Saliency | None = None,
    sensitivity: Sensitivity | None = None,
    budget: str = "parameters",
    costs: CostTable | None = None,
    compensation: Compensation = "none",
    windows: CalibrationSet | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Iterated:
    """Prune `lm` to `sparsity` in equal steps, scoring the remaining units before each; one step is one-shot pruning.

    After step k of n, k/n of the weights to remove are removed; a step's unspent budget is added to the next. gamma
    ties the rates of each step, as shares of the remaining weights. `lm` is unchanged.

    The measured allocation distributes the first step by its loss curves, and the others are by rank among the new
    scores: curves of single modules add up only while little is removed, and new ones take minutes.

    Args:
        calibration: (N, T) tokens for the scores of every step; None for criteria that use weights only.
        sparsity: fraction of the attention and MLP parameters of `lm`, or of another budget, to remove, in (0, 1).
        steps: from 1.
        criterion, seed: as for `score`.
        gamma, multiple_of, protected, uniform, method, sensitivity, budget, costs: as for `allocate`.
        saliency: the scores of `lm`, if they are known.
        compensation: of each step's model, with statistics of `windows`.
        windows: (N, T) tokens for the statistics of a compensation.
        progress: called several times a second; may raise `Cancelled`.

    Raises:
        PlanError: `steps` is not positive, a value is invalid, or the sparsity is out of reach.
        CompensationError: the compensation is unknown, or has no windows.
        SaliencyError: the criterion is unknown, or the calibration set does not suit the model.
        ModelError: the weights are not in memory.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise PlanError(f"The number of steps must be a whole number from 1, not {steps}.", "Use 1 for one shot.")
    if compensation != "none" and windows is None:
        raise CompensationError(f"The compensation {compensation} needs windows.", "Draw them by sample_calibration.")
    constraints: dict[str, Any] = {"gamma": gamma, "multiple_of": multiple_of, "uniform": uniform}
    constraints |= {"budget": budget, "costs": costs}
    counted = read_budget(budget, costs, lm.layout)
    guarded, whole = tuple(protected), counted.total(lm.layout)
    current: LM = lm
    plan: PruningPlan | None = None
    for step in range(1, steps + 1):
        left = counted.total(current.layout)
        share = (sparsity * step / steps * whole - (whole - left)) / left
        part, parts = within(progress, f"Round {step} of {steps}", step - 1, steps), 1 if compensation == "none" else 2
        scores = saliency if step == 1 else None
        if scores is None:
            scoring = within(part, "Scores", 0, parts)
            scores = score(current, calibration, criterion=criterion, seed=seed, progress=scoring)
        how: dict[str, Any] = {"method": method, "sensitivity": sensitivity}
        if method == "measured" and step > 1:
            how = {"method": "shared"}
        chosen = allocate(scores, sparsity=share, protected=guarded, **constraints, **how)
        statistics = None
        if compensation != "none":
            assert windows is not None
            reading = within(part, "Statistics", 1, parts)
            second = compensation == "least_squares"
            statistics = collect_statistics(current, windows, second_moments=second, progress=reading)
        smaller = prune(current, chosen, compensation=compensation, statistics=statistics)
        if current is not lm:
            current.unload()
        current, plan = smaller, chosen if plan is None else plan.then(chosen, requested=sparsity)
    assert plan is not None
    if steps > 1:
        plan = replace(plan, notes=(f"Units were scored in {steps} rounds.", *plan.notes))
    if costs is not None:
        plan = replace(plan, predicted=costs.predict(lm.layout, plan.widths))
    return Iterated(current, plan)
