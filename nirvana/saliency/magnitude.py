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
    weights = list(unit_weights(lm))
    for site, part, weight in track(weights, request.progress, "Scoring", len(weights)):
        add_unit_sums(sums[site], part, weight, None)
    return Scored({site: values.cpu().numpy() for site, values in sums.items()}, {})
