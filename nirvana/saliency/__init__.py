"""Saliency criteria: (model, calibration set) -> one score per unit. A new one is one file here and one line below."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from nirvana.errors import SaliencyError

if TYPE_CHECKING:
    from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
    from nirvana.models.lm import LM
    from nirvana.progress import ProgressCallback
    from nirvana.saliency.scores import Saliency

# Each module has `unit_scores(request: Request) -> Scored`, and is imported when it is first asked for.
CRITERIA = {
    "nirvana": "nirvana.saliency.nirvana",
    "magnitude": "nirvana.saliency.magnitude",
    "random": "nirvana.saliency.random",
}

Strategy = Literal["auto", "micro-batches", "recompute"]


def available() -> list[str]:
    """Names that `score` takes as its criterion."""
    return list(CRITERIA)


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
    """Score every prunable unit of `lm`; the higher, the longer it is kept.

    Args:
        lm: a model with its weights in memory, dense or already pruned. It is not changed.
        calibration: (N, T) tokens. None will do for criteria that look at weights only.
        criterion: "nirvana" (paper: saliency), "magnitude", "random".
        seed: of the draw, for "random".
        memory: bytes that scoring may use above the loaded model; default, what is free on the device.
        strategy: "micro-batches" is faster, "recompute" needs less memory; both give the same scores. "auto" takes
            the first of them that fits.
        progress: called several times a second; may raise `Cancelled`.

    Returns:
        Site -> float32 (units,), with `details` on how it was computed (`seconds`, `strategy` ...).

    Raises:
        SaliencyError: the criterion is unknown, the seed negative, the calibration set does not suit the model, a score
            is not finite, or the memory does not suffice.
        ModelError: the weights are not in memory.
    """
    from nirvana.saliency.request import Request
    from nirvana.saliency.scores import Saliency

    if criterion not in CRITERIA:
        raise SaliencyError(f"There is no criterion {criterion!r}.", f"Criteria are {', '.join(CRITERIA)}.")
    if strategy not in ("auto", "micro-batches", "recompute"):
        raise SaliencyError(f"There is no strategy {strategy!r}.", "Use auto, micro-batches or recompute.")
    if seed < 0:
        raise SaliencyError(f"A seed cannot be negative, such as {seed}.", "Use 0 or more.")
    lm.weights()
    started = time.perf_counter()
    request = Request(lm, calibration, seed, memory, strategy, progress)
    scores, details = import_module(CRITERIA[criterion]).unit_scores(request)
    return Saliency(
        scores=scores,
        layout=lm.layout,
        criterion=criterion,
        calibration_hash=calibration.hash if calibration is not None else "",
        details={**details, "seconds": time.perf_counter() - started},
    )
