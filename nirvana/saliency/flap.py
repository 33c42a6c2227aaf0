"""FLAP's fluctuation metric (arXiv 2312.11983), WIFV with adaptive search over layers and modules (AL-AM).

A feature of low variance can be replaced by its mean, so feature j of o_proj or down_proj has the importance

    WIFV_j = variance of X_j over the tokens * ||W_:,j||^2

squared for attention. It is standardised over the features of the layer, which makes layers comparable, and averaged
over a unit's features. Scores are in standard deviations from the layer's mean: about half are below 0. As published,
heads and neurons are ranked jointly, and the mean of the removed units becomes a bias of the projection.
"""

from __future__ import annotations

import numpy as np

from nirvana.forward.projections import output_weight
from nirvana.layout import NEURON
from nirvana.saliency.activations import by_unit, read_features
from nirvana.saliency.request import Request, Scored


def unit_scores(request: Request) -> Scored:
    """Standardised WIFV, its mean over a unit's features. A layer of equal features scores 0."""
    lm, scores = request.lm, {}
    for site, features in read_features(request).items():
        weight = output_weight(lm, site).float()
        fluctuation = features.variance * weight.square().sum(dim=0).cpu().numpy()  # (d,)
        if lm.layout[site].kind != NEURON:
            fluctuation = fluctuation**2
        scores[site] = by_unit(lm, site, _standardised(fluctuation)).mean(axis=1).astype(np.float32)
    return Scored(scores, {})


def _standardised(values: np.ndarray) -> np.ndarray:
    """Mean 0, standard deviation 1 (of a sample)."""
    centred = values - values.mean()
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return np.zeros_like(centred) if spread == 0 else centred / spread  # NaN stays, and is rejected by `Saliency`
