"""Plans of several rounds, through the step cache."""

from __future__ import annotations

from typing import Any

from nirvana.calibration.sets import CalibrationSet
from nirvana.costs import CostTable
from nirvana.iterative import prune_iteratively
from nirvana.loss_curves import Sensitivity
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback
from nirvana.runs.folder import FORMATS
from nirvana.runs.model_cache import cache_fields
from nirvana.runs.recipe import Recipe
from nirvana.runs.step_cache import Origin, cache_key, through_cache
from nirvana.saliency.scores import Saliency


def plan_in_rounds(
    lm: LM,
    recipe: Recipe,
    scores: Saliency,
    calibration: CalibrationSet,
    windows: CalibrationSet,
    curves: Sensitivity | None,
    costs: CostTable | None,
    progress: ProgressCallback | None,
) -> tuple[PruningPlan, Origin]:
    """The plan of the recipe's rounds, each model compensated by least squares with statistics of `windows`.

    Raises:
        NirvanaError: see `prune_iteratively` and `AllocationChoice.check_rounds`.
    """
    choice = recipe.allocation
    choice.check_rounds()
    inputs: dict[str, Any] = {"scores": scores.hash, "calibration": calibration.hash, "windows": windows.hash}
    inputs |= {"curves": curves.hash if curves else "", "choice": choice.to_json()}
    if costs is not None:
        inputs["costs"] = costs.hash

    def compute() -> PruningPlan:
        small, plan = prune_iteratively(
            lm,
            calibration,
            sparsity=choice.sparsity,
            steps=choice.rounds,
            criterion=scores.criterion,
            gamma=choice.gamma,
            multiple_of=choice.multiple_of,
            protected=choice.protected,
            uniform=choice.uniform,
            method=choice.method,
            saliency=scores,
            sensitivity=curves,
            budget=choice.budget,
            costs=costs,
            compensation="least_squares",
            windows=windows,
            seed=calibration.seed or 0,
            progress=progress,
        )
        small.unload()
        return plan

    form = FORMATS["allocation"]
    return through_cache(
        cache_key("plan", **inputs, **cache_fields(lm)), form.read, form.write, compute, progress=progress
    )
