"""Significance of differences, for runs, sweeps, baselines and calibration sets.

A difference is clear where its 95 % interval excludes zero. The interval is of paired differences where both numbers
come from the same parts (windows, probes, items, seeds), else it follows from the standard errors. A contender wins
where it differs clearly from every other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from nirvana.evaluation.results import Measurement
from nirvana.evaluation.zero_shot.results import ACCURACIES, Z, paired_interval, unpack_outcomes

CONFIDENCE = 0.95
HIGHER = tuple(ACCURACIES.values())  # metrics where higher is better
IGNORED = (
    "device",
    "note",
    "chance",
    "harness_seconds",
)  # fields of a protocol that may differ between comparable numbers


class Difference(Protocol):
    """Difference of two numbers."""

    @property
    def side(self) -> int:
        """-1 or 1 where the first is clearly below or above the second, else 0."""


class Interval(NamedTuple):
    """A difference with the ends of its 95 % interval; `paired`: from the differences of the same parts."""

    value: float
    low: float
    high: float
    paired: bool

    @property
    def side(self) -> int:
        return (self.low > 0) - (self.high < 0)


class Contest(NamedTuple):
    """Contenders from best to worst, the winner or None, and those not clearly worse than the best."""

    ranking: tuple[int, ...]
    winner: int | None
    unclear: tuple[int, ...]


def contest(
    values: Sequence[float], difference: Callable[[int, int], Difference | None], *, lower: bool = True
) -> Contest:
    """Rank one or more contenders by `values`; the first wins if it differs clearly from all others.

    Args:
        difference: of two contenders; None where it is unknown.
        lower: whether lower is better.
    """
    sign = 1 if lower else -1
    ranking = sorted(range(len(values)), key=lambda index: (math.isnan(values[index]), sign * values[index]))
    best, *others = ranking
    unclear = tuple(other for other in others if not better(difference(best, other), lower=lower))
    return Contest(tuple(ranking), None if unclear or not others else best, unclear)


def better(difference: Difference | None, *, lower: bool = True) -> bool:
    """Whether the first of two is clearly better."""
    return difference is not None and difference.side == (-1 if lower else 1)


def difference(one: Measurement | None, other: Measurement | None) -> Interval | None:
    """Difference of two measurements with its 95 % interval; None where it is unknown or the protocols differ.

    For perplexities it is the difference of losses.
    """
    if one is None or other is None or math.isnan(one.value) or math.isnan(other.value) or differing(one, other):
        return None
    if math.isinf(one.value) or math.isinf(other.value):  # an infinite perplexity is always worse
        gap = 0.0 if one.value == other.value else one.value - other.value
        return Interval(gap, gap, gap, False)
    if one.outcomes and other.outcomes and one.n == other.n:
        found = paired_interval(
            unpack_outcomes(other.outcomes, other.n or 0), unpack_outcomes(one.outcomes, one.n or 0)
        )
        return Interval(found.value, found.low, found.high, True)
    parts, others = one.part_values, other.part_values
    if parts is not None and others is not None and len(parts) == len(others) > 1:
        return paired_mean(parts, others)
    if one.standard_error is None or other.standard_error is None:
        return None
    if one.metric == "perplexity" and one.value > 0 and other.value > 0:
        errors = one.standard_error / one.value, other.standard_error / other.value
        return from_errors(math.log(one.value), errors[0], math.log(other.value), errors[1])
    return from_errors(one.value, one.standard_error, other.value, other.standard_error)


def differing(one: Measurement, other: Measurement) -> list[str]:
    """Fields in which the protocols disagree; numbers are comparable only without any."""
    names = dict.fromkeys([*one.protocol, *other.protocol])
    return [
        name for name in names if name not in IGNORED and str(one.protocol.get(name)) != str(other.protocol.get(name))
    ]


def paired_mean(one: np.ndarray, other: np.ndarray) -> Interval:
    """The mean of one - other over n parts, (n,) each, and its interval by Student's t: infinite for a single part."""
    from scipy.special import stdtrit

    differences = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return Interval(mean, -math.inf, math.inf, True)
    reach = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * float(differences.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach, True)


def from_errors(one: float, error: float, other: float, other_error: float) -> Interval:
    """one - other of independent measurements with these standard errors."""
    reach, value = Z * math.hypot(error, other_error), one - other
    return Interval(value, value - reach, value + reach, False)
