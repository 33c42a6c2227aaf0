"""Input features of the output projections: mean and spread over a calibration set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nirvana.forward.projections import visit_inputs
from nirvana.layout import Site
from nirvana.models.lm import LM
from nirvana.models.weights import output_part
from nirvana.saliency.request import Request

STAGE = "Scoring"


@dataclass
class Features:
    """Statistics of the d input features of one output projection, over the tokens that count.

    Updated a batch at a time: means and squared deviations of two sets of tokens are merged, without the cancellation
    of a difference of large sums.
    """

    tokens: int
    mean: np.ndarray  # float64 (d,)
    deviations: np.ndarray  # float64 (d,): sum over tokens of (x - mean)^2

    def add(self, inputs: torch.Tensor) -> None:
        """Add float32 (n, d)."""
        count = len(inputs)
        centre = inputs.mean(dim=0)
        spread = (inputs - centre).square_().sum(dim=0).cpu().numpy().astype(np.float64)
        gap = centre.cpu().numpy() - self.mean
        total = self.tokens + count
        self.deviations += spread + gap**2 * (self.tokens * count / total)
        self.mean += gap * (count / total)
        self.tokens = total

    @property
    def variance(self) -> np.ndarray:
        """float64 (d,), of the tokens as a whole."""
        return self.deviations / self.tokens

    @property
    def norm(self) -> np.ndarray:
        """float64 (d,): ||X_j||_2, the root of the sum of squares over the tokens."""
        norms: np.ndarray = np.sqrt(self.deviations + self.tokens * self.mean**2)
        return norms


def read_features(request: Request) -> dict[Site, Features]:
    """Site -> the input features of its output projection (o_proj, down_proj, T5's o and wo), from one forward pass.

    Raises:
        SaliencyError: no calibration set, or one that does not suit the model.
    """
    lm = request.lm
    found: dict[Site, Features] = {}
    for site, place in lm.layout.items():
        width = place.units * output_part(lm, site).size
        found[site] = Features(0, np.zeros(width), np.zeros(width))
    visit_inputs(
        lm,
        [request.text()],
        lambda site, inputs: found[site].add(inputs),
        stage=STAGE,
        progress=request.progress,
    )
    return found


def by_unit(lm: LM, site: Site, features: np.ndarray) -> np.ndarray:
    """Features (d,) of `site`, one row a unit: (units, columns a unit)."""
    return features.reshape(lm.layout[site].units, -1)
