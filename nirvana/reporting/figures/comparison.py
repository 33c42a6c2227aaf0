"""Any set of runs as a table and a chart: dense first, a column a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.evaluation.zero_shot.results import ACCURACIES
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis, plus_minus
from nirvana.reporting.text import megabytes, millions
from nirvana.runs.comparison import SIZES, SPARSITY, Cell, Comparison, Line
from nirvana.runs.recipe import Recipe

WINNER = "★ "
WIDE = 8.0  # highest over lowest from which an axis is logarithmic
SMALL = 0.005  # changes below half a percent are not shown, nor coloured
SHARES = tuple(ACCURACIES.values())


def title(line: Line) -> str:
    """E.g. "Perplexity, python-docs"."""
    words = {"KL divergence": "KL to dense", "bytes": "Size of the weights"}.get(line.metric, line.metric.capitalize())
    return f"{words}, {line.text}" if line.text and line.metric not in SIZES else words


def dense_headings(found: Comparison) -> list[str]:
    """One for each dense model; its name is said where there are several."""
    return (
        ["dense"]
        if len(found.models) < 2
        else [f"dense {name} ({number})" for number, (name, _) in enumerate(found.models, start=1)]
    )


def shown_table(found: Comparison) -> pd.DataFrame:
    """Text cells: what was measured, each dense model, each run, and how the winner was found."""
    heads = [column.heading for column in found.columns]
    rows = []
    for line in found.lines:
        row = {"measured": title(line)}
        row |= {head: _number(line, cell) for head, cell in zip(dense_headings(found), line.dense, strict=True)}
        for place, (head, cell) in enumerate(zip(heads, line.cells, strict=True)):
            row[head] = (WINNER if place == line.winner else "") + _number(line, cell) + _change(line, cell)
        rows.append(row | {"winner": line.reason, "protocol": line.protocol})
    return pd.DataFrame(rows)


def number_table(found: Comparison) -> pd.DataFrame:
    """A row a number: metric, text, run, value, standard error, times dense, winner, reason, protocol."""
    rows = []
    for line in found.lines:
        sides = [*zip(dense_headings(found), line.dense, strict=True)]
        sides += [(column.heading, cell) for column, cell in zip(found.columns, line.cells, strict=True)]
        for place, (head, cell) in enumerate(sides, start=-len(found.models)):
            if cell is not None:
                rows.append(
                    {
                        "metric": line.metric,
                        "text": line.text,
                        "run": head,
                        "value": cell.value,
                        "standard error": cell.standard_error,
                        "times dense": cell.ratio,
                        "winner": place == line.winner,
                        "compared": line.reason,
                        "protocol": line.protocol,
                    }
                )
    return pd.DataFrame(rows)


def directions(found: Comparison) -> pd.DataFrame:
    """Of the cells of `shown_table`, "better", "worse" or "" than dense."""
    table = shown_table(found)
    marks = pd.DataFrame("", index=table.index, columns=table.columns)
    for row, line in enumerate(found.lines):
        for column, cell in zip(found.columns, line.cells, strict=True):
            if cell is not None and cell.ratio is not None and abs(cell.ratio - 1) >= SMALL:
                better = (cell.ratio < 1) == line.lower_is_better
                marks.loc[row, column.heading] = "better" if better else "worse"
    return marks


def recipe_table(recipes: Mapping[str, Recipe]) -> pd.DataFrame:
    """Choices in which recipes differ: a row a choice, a column a run."""
    data = {head: recipe.to_json() for head, recipe in recipes.items()}
    first = next(iter(data.values()), {})
    rows = []
    for section, values in first.items():
        for name in values:
            shown = {head: _shown(each[section][name]) for head, each in data.items()}
            if len(set(shown.values())) > 1:
                rows.append({"choice": f"{section}: {name.replace('_', ' ')}", **shown})
    return pd.DataFrame(rows)


def line_chart(found: Comparison, line: Line) -> Chart:
    """One measurement of every run, with error bars; the dense model is a dashed line, a winner is ringed."""
    drawn = [
        (column.heading, cell)
        for column, cell in zip(found.columns, line.cells, strict=True)
        if cell is not None and math.isfinite(cell.value)
    ]
    values = np.array([cell.value for _, cell in drawn], float)
    dense = [cell.value for cell in line.dense if cell is not None and math.isfinite(cell.value)]
    names = [escape(head) for head, _ in drawn]
    figure = go.Figure(
        go.Scatter(
            x=values,
            y=names,
            error_x={
                "array": np.array([2 * (cell.standard_error or 0) for _, cell in drawn]),
                "color": theme.ATTENTION,
            },
            mode="markers",
            marker={"color": theme.ATTENTION, "size": 11},
            hovertemplate="%{y}<br>%{x:,.4~g}<extra></extra>",
        )
    )
    if line.winner is not None:
        head = found.columns[line.winner].heading
        ring = {"symbol": "circle-open", "size": 20, "color": theme.REMOVED, "line": {"width": 2.5}}
        best = next(cell.value for name, cell in drawn if name == head)
        figure.add_trace(go.Scatter(x=[best], y=[escape(head)], mode="markers", marker=ring, hoverinfo="skip"))
    for value in dense:
        figure.add_vline(x=value, line={"color": theme.DENSE, "width": 2, "dash": "dash"})
    figure.update_layout(height=110 + 44 * len(drawn), margin=MARGIN, showlegend=False)
    figure.update_yaxes(automargin=True, showgrid=False, autorange="reversed")
    figure.update_xaxes(title=title(line), zeroline=False)
    whole = np.array([*values, *dense])
    log = len(whole) > 0 and whole.min() > 0 and whole.max() >= WIDE * whole.min()
    if log:
        figure.update_xaxes(**log_axis(whole), title=f"{title(line)} (log)")
    return Chart(
        title=f"Which run does best: {title(line)}?",
        figure=figure,
        takeaway=_takeaway(found, line, drawn),
        table=pd.DataFrame(
            [
                {"run": head, "value": cell.value, "standard error": cell.standard_error, "times dense": cell.ratio}
                for head, cell in drawn
            ]
        ),
        reading=("Lower" if line.lower_is_better else "Higher")
        + " is better. Bars: two standard errors of each alone; "
        "runs that read the same text are compared pair by pair, which tells smaller differences. Dashed: dense.",
    )


def _takeaway(found: Comparison, line: Line, drawn: list[tuple[str, Cell]]) -> str:
    if line.winner is not None:
        cell = line.cells[line.winner]
        assert cell is not None
        return (
            f"**{found.columns[line.winner].heading}**, at {plus_minus(cell.value, cell.standard_error)}. {line.reason}"
        )
    if len(drawn) < 2:
        return "Only one run has it."
    return line.reason or "No winner is named."


def _number(line: Line, cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if line.metric == SPARSITY:
        return f"{cell.value:.2%}"
    if line.metric == "parameters":
        return millions(cell.value)
    if line.metric == "bytes":
        return megabytes(cell.value)
    if line.metric in SHARES:
        error = None if cell.standard_error is None else 100 * cell.standard_error
        return f"{plus_minus(100 * cell.value, error)} %"
    return plus_minus(cell.value, cell.standard_error)


def _change(line: Line, cell: Cell | None) -> str:
    if cell is None or cell.ratio is None or not math.isfinite(cell.ratio):
        return ""
    if line.metric in SHARES:
        points = 100 * (cell.value - cell.value / cell.ratio) if cell.ratio else 0.0
        return f"  ({points:+.1f})" if abs(points) >= 0.05 else ""
    if abs(cell.ratio - 1) < SMALL:
        return ""
    return f"  ({cell.ratio - 1:+.0%})" if cell.ratio < 10 else f"  (x {cell.ratio:,.0f})"


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
