"""Agreement of two criteria: rank correlation of units, and overlap of the kept units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Overlap(NamedTuple):
    """Overlap of two sets of kept units (Jaccard index).

    `share` is NaN where both are empty. `chance` is the expected overlap of random sets of these sizes.
    """

    share: float
    chance: float


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two scores of the same units, in [-1, 1]; equal scores share their mean rank.

    NaN where either gives all units the same score.
    """
    ranks = [_mean_ranks(values) for values in (one, other)]
    centred = [values - values.mean() for values in ranks]
    norm = np.sqrt(np.prod([(values**2).sum() for values in centred]))
    return float(np.dot(*centred) / norm) if norm > 0 else float("nan")


def kept_overlap(one: np.ndarray, other: np.ndarray, units: int) -> Overlap:
    """Overlap of two sets of kept units of a site, each without repetitions, out of `units`."""
    both = len(np.intersect1d(one, other))
    either = len(one) + len(other) - both
    if not either:
        return Overlap(float("nan"), float("nan"))
    expected = len(one) * len(other) / units
    return Overlap(both / either, expected / (len(one) + len(other) - expected))


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks
