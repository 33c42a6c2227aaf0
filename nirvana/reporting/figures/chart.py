"""A chart of a page: question, figure, answer, and data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.reporting.text import count as count
from nirvana.reporting.text import plus_minus as plus_minus
from nirvana.reporting.text import short as short


@dataclass(frozen=True)
class Chart:
    """`title` is the question that `figure` answers, `takeaway` the answer in one sentence.

    `table` holds the figure's data, one row a mark or bin; `reading` explains axes, bins, aggregates and clipping.
    """

    title: str
    figure: go.Figure
    takeaway: str
    table: pd.DataFrame
    reading: str = ""

    @property
    def alt(self) -> str:
        return f"{self.title} {self.takeaway}"


def positive_floor(values: np.ndarray) -> float | None:
    """The smallest positive value, which replaces zeros on a log axis.

    None where a log axis is impossible: no value is positive, or one is negative.
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


def plain_ticks(axis: dict[str, object]) -> dict[str, object]:
    """A log axis of `log_axis` with labels up to a million in full, e.g. "10,000" for "1e+04"."""
    ticks = np.asarray(axis["tickvals"], dtype=np.float64)
    return axis | {"ticktext": [f"{tick:,.0f}" if 1_000 <= tick < 1e6 else short(tick) for tick in ticks]}
