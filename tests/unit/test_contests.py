"""Who wins: intervals of differences, and contests that they decide."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nirvana.evaluation.results import Measurement, pack_parts
from nirvana.reporting.contests import Interval, better, contest, difference, differing, from_errors, paired_mean

LOSSES = np.array([3.0, 3.4, 2.9, 3.3])


def perplexity(losses: np.ndarray, **protocol: Any) -> Measurement:
    value = math.exp(losses.mean())
    error = value * losses.std(ddof=1) / math.sqrt(len(losses))
    return Measurement("perplexity", "pruned", value, error, len(losses), protocol, parts=pack_parts(losses))


def test_differences_of_the_same_windows_are_paired() -> None:
    """By hand: differences 0.3, -0.2, 0.2, -0.1 have mean 0.05, sd 0.238, and t = 3.182 gives 0.05 +- 0.379."""
    found = difference(perplexity(LOSSES + np.array([0.3, -0.2, 0.2, -0.1])), perplexity(LOSSES))
    assert found is not None and found.paired and found.side == 0
    assert found.value == pytest.approx(0.05, abs=1e-6) and found.high == pytest.approx(0.4288, abs=1e-3)
    clear = difference(perplexity(LOSSES - 0.01), perplexity(LOSSES))
    assert clear is not None and clear.side == -1 and better(clear) and not better(clear, lower=False)


def test_without_windows_the_standard_errors_decide() -> None:
    one, other, far = (replace(perplexity(LOSSES + shift), parts="") for shift in (0.0, 0.01, 3.0))
    close = difference(one, other)
    assert close is not None and not close.paired and close.side == 0
    found = difference(one, far)
    assert found is not None and found.high < 0
    assert from_errors(5.0, 0.3, 4.0, 0.4).low == pytest.approx(1 - 1.959964 * 0.5)
    assert paired_mean(np.array([1.0, 2.0]), np.array([0.0, 1.0])).side == 1
    assert difference(one, replace(other, standard_error=None)) is None
    assert paired_mean(np.array([2.0]), np.array([1.0])) == (1.0, -math.inf, math.inf, True)


def test_numbers_measured_differently_have_no_difference() -> None:
    one, other = perplexity(LOSSES, window=512, device="cpu"), perplexity(LOSSES - 1, window=256, device="cuda")
    assert differing(one, other) == ["window"] and difference(one, other) is None
    assert difference(one, perplexity(LOSSES - 1, window=512, device="cuda")) is not None


@pytest.mark.parametrize(("one", "other", "side"), [(math.inf, 3.0, 1), (3.0, math.inf, -1), (math.inf, math.inf, 0)])
def test_a_model_that_broke_down_is_clearly_worse(one: float, other: float, side: int) -> None:
    found = difference(*(Measurement("perplexity", "pruned", value) for value in (one, other)))
    assert found is not None and found.side == side
    assert difference(Measurement("perplexity", "pruned", math.nan), perplexity(LOSSES)) is None


def gaps(values: list[float], error: float) -> Any:
    return lambda one, other: from_errors(values[one], error, values[other], error)


def test_a_winner_differs_clearly_from_all_others() -> None:
    values = [3.0, 1.0, 2.0]
    assert contest(values, gaps(values, 0.1)) == ((1, 2, 0), 1, ())
    assert contest(values, gaps(values, 0.1), lower=False) == ((0, 2, 1), 0, ())
    assert contest(values, gaps(values, 0.5)) == ((1, 2, 0), None, (2,))
    assert contest(values, lambda *_: None) == ((1, 2, 0), None, (2, 0))
    assert contest([1.0], gaps([1.0], 0.1)) == ((0,), None, ())
    assert contest([math.nan, math.inf, 1.0], lambda *_: Interval(-1, -1, -1, True)) == ((2, 1, 0), 2, ())
