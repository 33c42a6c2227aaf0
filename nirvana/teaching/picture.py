"""The picture of an experiment: KL of its points along one choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN, gamma_label
from nirvana.reporting.figures.chart import Chart, log_axis
from nirvana.runs.describe import percent
from nirvana.studies.sweep_grid import Point
from nirvana.studies.sweep_rows import Row
from nirvana.teaching.experiments.experiment import KL, SMALLEST, Experiment, Finding, kl

WIDE = 3.0  # highest over lowest value from which an axis is logarithmic
HEIGHT = 330
SYMBOLS = ("circle", "square", "diamond", "cross")
TITLES = {
    "sparsity": "Sparsity",
    "gamma": "gamma: the MLP's rate over attention's",
    "seed": "Draw of the calibration set",
}


class Mark(NamedTuple):
    """One measured model: its series, its place on the axis, KL and standard error."""

    series: str
    place: str
    value: float
    error: float


def picture(experiment: Experiment, rows: Sequence[Row], finding: Finding | None) -> Chart | None:
    """KL of the experiment's measured points; None without any.

    Args:
        rows: as in `Experiment.judge`.
        finding: its result, which is the takeaway.
    """
    good = [row for row in experiment.own(rows) if not row.failure]
    if not good:
        return None
    marks = [mark for row in good for mark in _marks(experiment, row)]
    places = list(dict.fromkeys(_place(experiment, row.point) for row in good))
    figure = go.Figure()
    series = list(dict.fromkeys(mark.series for mark in marks))
    for number, name in enumerate(series):
        part = [mark for mark in marks if mark.series == name]
        colour, symbol = _look(name, number)
        figure.add_trace(
            go.Scatter(
                x=[mark.place for mark in part],
                y=np.array([max(mark.value, SMALLEST) for mark in part], np.float32),
                error_y={
                    "array": np.array([mark.error for mark in part], np.float32),
                    "color": colour,
                    "thickness": 2,
                    "width": 6,
                },
                mode="markers" if experiment.along == "seed" else "lines+markers",
                name=name,
                line={"color": colour, "width": 3},
                marker={"color": colour, "size": 13, "symbol": symbol},
                hovertemplate="%{x}<br>KL %{y:.3~g} nats<extra>%{fullData.name}</extra>",
            )
        )
    values = np.array([max(mark.value, SMALLEST) for mark in marks])
    log = bool(values.max() >= WIDE * values.min())
    figure.update_xaxes(
        title=TITLES[experiment.along],
        type="category",
        categoryorder="array",
        categoryarray=places,
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title="KL to the dense model" + (" (log)" if log else ""), zeroline=False)
    if log:
        figure.update_yaxes(**log_axis(values))
    else:
        figure.update_yaxes(rangemode="tozero")
    figure.update_layout(height=HEIGHT, margin=MARGIN, legend=LEGEND, showlegend=len(series) > 1)
    left = len(experiment.grid.points()) - len(experiment.own(rows))
    return Chart(
        title=experiment.title,
        figure=figure,
        takeaway=finding.sentence if finding else f"{len(good)} points are measured, {left} are left.",
        table=_table(experiment, marks),
        reading=f"KL in nats per token, at least {SMALLEST}; bars: one standard error over the probes.",
    )


def _marks(experiment: Experiment, row: Row) -> list[Mark]:
    value, place = kl(row), _place(experiment, row.point)
    if value.pruned is None:
        return [Mark(row.point.criterion, place, value.value, value.error or 0.0)]
    before = Mark("pruned", place, value.pruned, value.pruned_error or 0.0)
    return [before, Mark("recovered", place, value.value, value.error or 0.0)]


def _table(experiment: Experiment, marks: Sequence[Mark]) -> pd.DataFrame:
    columns = [experiment.along, "series", KL, "standard error"]
    return pd.DataFrame([(mark.place, mark.series, mark.value, mark.error) for mark in marks], columns=columns)


def _place(experiment: Experiment, point: Point) -> str:
    if experiment.along == "sparsity":
        return percent(point.sparsity)
    return gamma_label(point.gamma) if experiment.along == "gamma" else f"seed {point.seed}"


def _look(series: str, number: int) -> theme.Look:
    """Colour and symbol of a series: a model's own, else by its number."""
    if series in theme.SUBJECTS:
        return theme.SUBJECTS[series]
    return theme.Look(theme.CATEGORICAL[number % len(theme.CATEGORICAL)], SYMBOLS[number % len(SYMBOLS)])
