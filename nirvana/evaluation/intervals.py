"""Intervals of differences between two models that were measured on the same windows, probes or items."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
Z = 1.959964  # of the normal distribution, both sides


class Interval(NamedTuple):
    """A difference with the ends of its 95 % interval; `paired`: from the differences of the same parts."""

    value: float
    low: float
    high: float
    paired: bool

    @property
    def clear(self) -> bool:
        """Whether it excludes zero."""
        return self.low > 0 or self.high < 0


def paired_mean(one: np.ndarray, other: np.ndarray) -> Interval:
    """The mean of one - other over n >= 2 parts, (n,) each, and its interval by Student's t."""
    from scipy.stats import t

    differences = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    n, mean = len(differences), float(differences.mean())
    reach = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(differences.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach, True)


def from_errors(one: float, error: float, other: float, other_error: float) -> Interval:
    """one - other of independent measurements with these standard errors."""
    reach, value = Z * math.hypot(error, other_error), one - other
    return Interval(value, value - reach, value + reach, False)
