"""Magnitude: a unit's score is the sum of |W| over its weights. No text is read."""

from __future__ import annotations

import torch

from nirvana.progress import track
from nirvana.saliency.request import Request, Scored
from nirvana.saliency.units import add_unit_sums, unit_weights


def unit_scores(request: Request) -> Scored:
    """Sum of |W| in float32."""
    lm = request.lm
    sums = {site: torch.zeros(place.units, device=lm.device) for site, place in lm.layout.items()}
    total = sum(len(lm.family.slices(lm.settings, site)) for site in lm.layout)
    for site, part, weight in track(unit_weights(lm), request.progress, "Scoring", total):
        add_unit_sums(sums[site], part, weight, None)
    return Scored({site: values.cpu().numpy() for site, values in sums.items()}, {})
