"""Score normalisation, for criteria whose scores are not comparable across layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nirvana.errors import PlanError
from nirvana.saliency.scores import Saliency


def normalised(saliency: Saliency, power: float) -> Saliency:
    """Each site's scores divided by the `power`-th power of their mean absolute value.

    With 0, scores are unchanged and a layer of large scores is pruned last; with 1 every site has the same mean, and
    only the shape of a layer's scores matters. A site of zero scores is unchanged.

    Raises:
        PlanError: the power is not in [0, 1].
    """
    if not 0 <= power <= 1:
        raise PlanError(f"Normalisation lies between 0 and 1, not {power}.", "Use 0 to compare scores as they are.")
    if power == 0:
        return saliency
    scores = {}
    for site, values in saliency.items():
        mean = float(np.abs(values, dtype=np.float64).mean())
        scores[site] = (values.astype(np.float64) / mean**power).astype(np.float32) if mean > 0 else values
    return replace(saliency, scores=scores)
