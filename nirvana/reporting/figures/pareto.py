"""Pareto figures of a sweep: quality against size or speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.evaluation.results import Report
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import MARGIN
from nirvana.reporting.figures.chart import Chart
from nirvana.reporting.figures.speed import sizes_table
from nirvana.reporting.figures.sweep import BELOW, Style, drawable, hover_words, mean_size, quality_axis
from nirvana.reporting.sweeps import Cell, cells, dense_value, higher_is_better, words
from nirvana.studies.sweep_rows import Row

SAME = 0.002  # largest relative difference of one model's perplexity on one text between devices
AGAINST = {"parameters": "parameters", "bytes": "bytes of the weights", "speed": "measured speed"}


def pareto(rows: Sequence[Row], metric: str, against: str, sizes: Report | None = None) -> Chart | None:
    """Quality against size or speed, with the Pareto front; None without measurements.

    Args:
        rows: of the sweep.
        metric: the quality.
        against: one of AGAINST.
        sizes: measured quality against bytes of quantised copies, drawn where they are comparable.
    """
    marks = _marks(rows, metric, against)
    if not any(mark.cell for mark in marks):
        return None
    if against == "bytes":
        marks += _quantised(sizes, metric, dense_value(rows, metric))
    front = _front(marks, metric, against)
    style = Style(rows, [mark.cell for mark in marks if mark.cell])
    figure = go.Figure()
    ordered = sorted(front, key=lambda mark: mark.cost)
    figure.add_trace(
        go.Scatter(
            x=np.array([mark.cost for mark in ordered], np.float32),
            y=np.array([mark.value for mark in ordered], np.float32),
            mode="lines",
            name="front",
            line={"color": theme.CUT, "width": 2, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    for mark in marks:
        figure.add_trace(_mark(mark, style, mark in front, metric))
    style.entries(figure, lines=False)
    values = np.array([mark.value for mark in marks])
    log = quality_axis(figure, values, metric)
    axis = {"parameters": "Parameters, M", "bytes": "Weights, MB", "speed": "Decoding speed over the dense model's"}[
        against
    ]
    figure.update_xaxes(title=axis, zeroline=False, showgrid=False)
    figure.update_layout(height=style.height, margin=MARGIN, legend=BELOW, showlegend=True)
    better = "Higher" if higher_is_better(metric) else "Lower"
    return Chart(
        title=f"Which models give the best {words(metric)} for their {AGAINST[against]}?",
        figure=figure,
        takeaway=_front_words(marks, front, against),
        table=_marks_table(marks, front, axis),
        reading=f"{better} and further {'right' if against == 'speed' else 'left'} is better. Each mark is a mean over "
        "seeds; the dotted line joins the Pareto front, and the others are pale. " + log,
    )


@dataclass(frozen=True, eq=False)
class _Mark:
    """One model of a Pareto chart; `cell` is None for the dense model and its quantised copies."""

    label: str
    cost: float
    value: float
    cell: Cell | None = None


def _mark(mark: _Mark, style: Style, on_front: bool, metric: str) -> go.Scatter:
    marker: dict[str, Any] = {"size": 14, "symbol": "star", "color": theme.DENSE}
    data, error = [""], {}
    if mark.cell is not None:
        colour = style.colour(mark.cell)
        marker = {"size": 11, "symbol": style.symbol(mark.cell), "color": colour}
        data = [next(iter(mark.cell.rows.values())).run_id]
        spread = 0.0 if math.isnan(mark.cell.spread) else mark.cell.spread
        error = {"error_y": {"array": np.array([spread], np.float32), "color": colour, "thickness": 1.5, "width": 4}}
    return go.Scatter(
        x=np.array([mark.cost], np.float32),
        y=np.array([mark.value], np.float32),
        customdata=data,
        text=[mark.label] if mark.cell is None else None,
        textposition="top center",
        mode="markers+text" if mark.cell is None else "markers",
        marker=marker,
        opacity=1.0 if on_front else 0.35,
        hovertemplate=f"{mark.label}<br>%{{x:,.4~g}}<br>{hover_words(metric)}<extra></extra>",
        showlegend=False,
        **error,
    )


def _marks(rows: Sequence[Row], metric: str, against: str) -> list[_Mark]:
    """The dense model, where it has the metric, and every way to prune at every sparsity."""
    marks, seen = [], set()
    for cell in sorted(cells(rows, metric), key=lambda cell: cell.way.column == "published"):
        same = frozenset(row.run_id for row in cell.rows.values())
        cost = _cost(cell, against)
        if same not in seen and drawable(cell, metric) and math.isfinite(cost):
            seen.add(same)
            marks.append(_Mark(f"{cell.way.label}, {100 * cell.asked:.3g} %", cost, cell.mean, cell))
    dense = dense_value(rows, metric)
    if dense is not None and marks:
        known = next(row.sizes for row in rows if row.sizes)
        costs = {"parameters": known["dense parameters"] / 1e6, "bytes": known["dense bytes"] / 1e6, "speed": 1.0}
        marks.append(_Mark("dense", costs[against], dense[0]))
    return marks


def _quantised(sizes: Report | None, metric: str, dense: tuple[float, float | None] | None) -> list[_Mark]:
    """Quantised copies of the dense model with a perplexity of the rows' text and protocol. The dense model's
    perplexity tests that, since it differs on other tokens or windows.
    """
    if sizes is None or not metric.startswith("perplexity"):
        return []
    table = sizes_table(sizes)
    if table.empty:
        return []
    corpus = metric.partition(", ")[2]
    same = table["corpus"].map(lambda name: str(name).replace("\\", "/").rpartition("/")[2] == corpus)
    copies = table["weights"].isin(("int8", "int4"))
    whole = table[(table["model"] == "dense") & ~copies & same]["perplexity"]
    if dense is None or not all(math.isclose(float(value), dense[0], rel_tol=SAME) for value in whole):
        return []
    part = table[(table["model"] == "dense") & copies & same]
    return [
        _Mark(f"dense {weights}", float(size) / 1e6, float(value))
        for weights, size, value in part[["weights", "bytes", "perplexity"]].to_numpy()
        if math.isfinite(float(value))
    ]


def _front(marks: Sequence[_Mark], metric: str, against: str) -> list[_Mark]:
    """The Pareto front: marks that no other equals in both and exceeds in one."""
    up = -1 if higher_is_better(metric) else 1
    right = -1 if against == "speed" else 1
    placed = [(right * mark.cost, up * mark.value, mark) for mark in marks]
    return [
        mark
        for cost, value, mark in placed
        if not any(c <= cost and v <= value and (c, v) != (cost, value) for c, v, _ in placed)
    ]


def _cost(cell: Cell, against: str) -> float:
    if against == "speed":
        paces = [row.speed["decode"].ratio for row in cell.rows.values() if "decode" in row.speed]
        return float(np.mean(paces)) if paces else math.nan
    return mean_size(cell, against) / 1e6


def _front_words(marks: Sequence[_Mark], front: Sequence[_Mark], against: str) -> str:
    pruned = [mark for mark in front if mark.cell is not None]
    rivals = [mark for mark in front if mark.cell is None and mark.label != "dense"]
    total = sum(mark.cell is not None for mark in marks)
    if not pruned:
        return f"No pruned model is on the front: {', '.join(mark.label for mark in front)} beat all {total} of them."
    names = [mark.label for mark in sorted(pruned, key=lambda mark: -mark.cost if against == "speed" else mark.cost)]
    shown = "; ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    beside = f" So {'is' if len(rivals) == 1 else 'are'} {', '.join(mark.label for mark in rivals)}." if rivals else ""
    verb = "is" if len(pruned) == 1 else "are"
    return f"{len(pruned)} of {total} pruned models {verb} on the front: {shown}.{beside}"


def _marks_table(marks: Sequence[_Mark], front: Sequence[_Mark], axis: str) -> pd.DataFrame:
    rows = [
        {
            "model": mark.label,
            axis.lower(): mark.cost,
            "quality": mark.value,
            "standard deviation": mark.cell.spread if mark.cell else math.nan,
            "seeds": mark.cell.n if mark.cell else 0,
            "on the front": mark in front,
        }
        for mark in marks
    ]
    return pd.DataFrame(rows).sort_values(axis.lower(), ignore_index=True)
