"""`score`: one score per unit from a model and a calibration set (paper: saliency)."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING

from nirvana.errors import SaliencyError
from nirvana.saliency.criteria import find_criterion
from nirvana.saliency.request import Request, Strategy
from nirvana.saliency.scores import Saliency

if TYPE_CHECKING:
    from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
    from nirvana.models.lm import LM
    from nirvana.progress import ProgressCallback


def score(
    lm: LM,
    calibration: CalibrationSet | CalibrationSelection | None,
    *,
    criterion: str = "nirvana",
    seed: int = 0,
    memory: int | None = None,
    strategy: Strategy = "auto",
    progress: ProgressCallback | None = None,
) -> Saliency:
    """Score every prunable unit of `lm`; units of lower scores are removed first.

    Args:
        lm: a model with its weights in memory, dense or already pruned. It is not changed.
        calibration: (N, T) tokens. None for criteria that use weights only.
        criterion: one of `available()`; "nirvana" is the paper's.
        seed: of the draw, for "random".
        memory: bytes that scoring may use above the loaded model; default: the free memory of the device.
        strategy: "micro-batches" is faster, "recompute" needs less memory; both give the same scores. "auto" takes the
            first that fits.
        progress: called several times a second; may raise `Cancelled`.

    Returns:
        Site -> float32 (units,), with `details` of the computation (`seconds`, `strategy` ...).

    Raises:
        SaliencyError: the criterion is unknown, the seed negative, the calibration set does not suit the model, a score
            is not finite, or the memory does not suffice.
        CompensationError: the statistics of "second-order" are not finite or do not fit in memory.
        ModelError: the weights are not in memory.
    """
    found = find_criterion(criterion)
    if strategy not in ("auto", "micro-batches", "recompute"):
        raise SaliencyError(f"There is no strategy {strategy!r}.", "Use auto, micro-batches or recompute.")
    if seed < 0:
        raise SaliencyError(f"A seed cannot be negative, such as {seed}.", "Use 0 or more.")
    lm.module()
    started = time.perf_counter()
    request = Request(lm, calibration, seed, memory, strategy, progress)
    scores, details = import_module(found.module).unit_scores(request)
    return Saliency(
        scores=scores,
        layout=lm.layout,
        criterion=criterion,
        calibration_hash=calibration.hash if calibration is not None else "",
        details={**details, "seconds": time.perf_counter() - started},
    )
