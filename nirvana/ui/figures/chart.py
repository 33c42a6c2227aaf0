"""A chart as a page shows it: the question, the figure, the answer, and the numbers behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go


@dataclass(frozen=True)
class Chart:
    """`title` is the one question that `figure` answers, `takeaway` the answer in one sentence, from the data.

    `table` holds the numbers behind the figure, one row a mark or a bin; `reading` says how to read it: axes,
    binning, aggregate, clipping.
    """

    title: str
    figure: go.Figure
    takeaway: str
    table: pd.DataFrame
    reading: str = ""

    @property
    def alt(self) -> str:
        return f"{self.title} {self.takeaway}"


def count(value: float, noun: str) -> str:
    """A whole number with its noun, e.g. "1,536 neurons", "1 KV group"."""
    return f"{value:,.0f} {noun}" + ("" if value == 1 else "s")


def short(value: float) -> str:
    """A score in three significant digits, e.g. "0.0123", "4.2e-06"."""
    return f"{value:.3g}"


def plus_minus(value: float, error: float | None) -> str:
    """A number with its standard error, which has two significant digits, e.g. "12.74 ± 0.31"; alone without one."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite"
    if error is None or not math.isfinite(error):
        return f"{value:,.4g}" if value < 1e6 else short(value)
    if error == 0 or abs(value) >= 1e6:
        return f"{short(value)} ± {short(error)}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"


def positive_floor(values: np.ndarray) -> float | None:
    """The smallest positive value, which stands in for zeros on a log axis.

    None where a log axis shows nothing: no value is positive, or one is negative.
    """
    positive = values[values > 0]
    return float(positive.min()) if positive.size and not (values < 0).any() else None


def log_ticks(low: float, high: float, most: int = 6) -> tuple[list[float], list[str]]:
    """Positions (log10) and labels of at most `most` round values between 10**low and 10**high."""
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            exponent + float(np.log10(digit))
            for exponent in range(int(np.floor(low)), int(np.ceil(high)) + 1)
            for digit in digits
        ]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= most:
            break
    else:
        inside = inside[:: -(-len(inside) // most)]
    if len(inside) < 2:
        inside = [low, high]
    return inside, [short(10**tick) for tick in inside]


def layer_axis(layers: list[int]) -> dict[str, object]:
    """Settings of an axis over layers: whole numbers, about ten labels."""
    step = max(1, -(-len(layers) // 10))
    step = next(nice for nice in (1, 2, 5, 10, 20, 50, 100, step) if nice >= step)
    return {
        "title": "Layer",
        "tickmode": "linear",
        "tick0": 0,
        "dtick": step,
        "showgrid": False,
        "zeroline": False,
    }


def log_axis(values: np.ndarray) -> dict[str, object]:
    """Settings of a log axis over the positive ones of `values`: a few round labels."""
    positive = values[values > 0]
    low, high = np.log10(positive.min()), np.log10(positive.max())
    ticks, labels = log_ticks(float(low), float(high))
    return {"type": "log", "tickvals": [10**tick for tick in ticks], "ticktext": labels, "zeroline": False}
