"""Random: a seeded draw per unit, the baseline."""

from __future__ import annotations

import numpy as np

from nirvana.progress import report
from nirvana.saliency.request import Request, Scored


def unit_scores(request: Request) -> Scored:
    """Uniform in [0, 1), site by site in model order."""
    draw = np.random.default_rng(request.seed)
    scores = {site: draw.random(place.units, dtype=np.float32) for site, place in request.lm.layout.items()}
    report(request.progress, "Scoring", 1, 1)
    return Scored(scores, {"seed": request.seed})
