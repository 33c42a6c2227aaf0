"""Wanda-sp: magnitude of the output projection's weights times the norm of its inputs.

Wanda (arXiv 2306.11695) scores a weight by |W_ij| ||X_j||_2. Its structured form, a baseline in the FLAP paper (arXiv
2312.11983), averages that over the rows i of o_proj or down_proj and sums it over a unit's columns j. Norms of
activations are not comparable across layers, so units are ranked within each layer.
"""

from __future__ import annotations

import numpy as np

from nirvana.forward.projections import output_weight
from nirvana.saliency.activations import by_unit, read_features
from nirvana.saliency.request import Request, Scored


def unit_scores(request: Request) -> Scored:
    """Sum over a unit's columns j of mean_i |W_ij| ||X_j||_2, X over all tokens that count."""
    lm, scores = request.lm, {}
    for site, features in read_features(request).items():
        rows = output_weight(lm, site).float().abs().mean(dim=0).cpu().numpy()  # (d,)
        scores[site] = by_unit(lm, site, rows * features.norm).sum(axis=1).astype(np.float32)
    return Scored(scores, {})
