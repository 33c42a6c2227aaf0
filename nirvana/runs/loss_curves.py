"""Loss curves in the step cache: the finished ones, and those of an interrupted measurement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from nirvana.calibration.sets import CalibrationSet
from nirvana.compensation import Compensation
from nirvana.compensation.statistics import Statistics
from nirvana.errors import PlanError
from nirvana.evaluation.sensitivity import sensitivity
from nirvana.loss_curves import Sensitivity
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback
from nirvana.runs.model_cache import cache_fields
from nirvana.runs.step_cache import Origin, cache_key, read_cached, through_cache, write_cached
from nirvana.saliency.scores import Saliency

log = logging.getLogger(__name__)


def cached_curves(
    lm: LM,
    scores: Saliency,
    probe: CalibrationSet,
    *,
    levels: Sequence[float],
    compensation: Compensation,
    windows: str,
    collect: Callable[..., tuple[Statistics, Origin]] | None,
    progress: ProgressCallback | None,
) -> tuple[Sensitivity, Origin]:
    """`sensitivity` where the cache lacks its result; an interrupted measurement is continued.

    Args:
        windows: hash of the windows that the statistics are of; empty without compensation.
        collect: returns these statistics; called with `progress` where curves are missing.
    """
    inputs = {"scores": scores.hash, "levels": sorted(levels), "compensation": compensation, "probe": probe.hash}
    key = cache_key("curves", windows=windows, **inputs, **cache_fields(lm))
    begun = f"{key}-begun"

    def measure() -> Sensitivity:
        statistics = collect(progress=progress)[0] if collect is not None else None
        return sensitivity(
            lm,
            scores,
            probe,
            levels=levels,
            compensation=compensation,
            statistics=statistics,
            known=_begun(begun),
            keep=lambda curves: write_cached(begun, curves.to_bytes()),
            progress=progress,
        )

    return through_cache(key, Sensitivity.from_bytes, Sensitivity.to_bytes, measure, progress=progress)


def _begun(key: str) -> Sensitivity | None:
    found = read_cached(key)
    try:
        return Sensitivity.from_bytes(found[1]) if found else None
    except PlanError as error:
        log.warning("%s is measured again: %s", key, error)
        return None
