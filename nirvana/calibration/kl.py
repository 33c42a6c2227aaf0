"""KL divergence on probe samples, the criterion for choosing a calibration set (paper: calibration data)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Divergence:
    """KL( dense || pruned ) over the full vocabulary, in nats, at each position of each probe sample.

    `per_token` is (samples, length) float32.
    """

    per_token: np.ndarray = field(repr=False)

    @property
    def per_sample(self) -> np.ndarray:
        """(samples,) mean over each sample's tokens."""
        means: np.ndarray = self.per_token.mean(axis=1, dtype=np.float64)
        return means

    @property
    def mean(self) -> float:
        """Mean over tokens and samples."""
        return float(self.per_sample.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, from the spread over samples; NaN for a single one."""
        values = self.per_sample
        return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
