"""A comparison of runs as table and chart: a column a run, each against its own dense model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.reporting.comparison import SIZES, SPARSITY, Cell, Comparison, Line
from nirvana.reporting.contests import HIGHER
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis, plus_minus
from nirvana.reporting.figures.names import wrapped_label
from nirvana.reporting.text import megabytes, millions, plain
from nirvana.runs.recipe import Recipe

WINNER, OTHERWISE = "★ ", "≠ "  # marks of a cell
WIDE = 8.0  # highest over lowest from which an axis is logarithmic
SMALL = 0.0005  # smaller relative changes are neither shown nor coloured


def title(line: Line) -> str:
    """E.g. "Perplexity, python-docs", "KL to dense, python-docs, recovered"."""
    words = {"KL divergence": "KL to dense", "bytes": "Size of the weights"}.get(line.metric, line.metric.capitalize())
    text = [line.text] if line.text and line.metric not in SIZES else []
    return ", ".join([words, *text, *(["recovered"] if line.subject == "recovered" else [])])


def shown_table(found: Comparison) -> pd.DataFrame:
    """Text cells: the measurement, "dense → pruned" of each run, and the reason for the winner."""
    rows = []
    for line in found.lines:
        row = {"measured": title(line)}
        for place, (column, cell) in enumerate(zip(found.columns, line.cells, strict=True)):
            mark = "" if cell is None or cell.alike else OTHERWISE
            row[column.heading] = (WINNER if place == line.winner else mark) + cell_text(line, cell)
        rows.append(row | {"winner": line.reason})
    return pd.DataFrame(rows)


def cell_text(line: Line, cell: Cell | None) -> str:
    """E.g. "8.40 → 9.12 ± 0.31 (+8.6 %)"; the standard error is the latter's."""
    if cell is None:
        return "-"
    dense = "" if cell.dense is None else _number(line, cell.dense, cell.dense_error).partition(" ± ")[0]
    before = f"{dense} → " if dense else ""
    return f"{before}{_number(line, cell.value, cell.standard_error)}{_change(line, cell)}"


def number_table(found: Comparison) -> pd.DataFrame:
    """A row a number: metric, text, model, run, value, dense, standard errors, whether comparable, winner, protocol."""
    rows = []
    for line in found.lines:
        for place, (column, cell) in enumerate(zip(found.columns, line.cells, strict=True)):
            if cell is not None:
                rows.append(
                    {
                        "metric": line.metric,
                        "text": line.text,
                        "model": line.subject,
                        "run": column.run_id,
                        "name": column.heading,
                        "value": cell.value,
                        "standard error": cell.standard_error,
                        "dense": cell.dense,
                        "dense standard error": cell.dense_error,
                        "times dense": cell.ratio,
                        "measured alike": cell.alike,
                        "winner": place == line.winner,
                        "compared": line.reason,
                        "protocol": cell.protocol,
                    }
                )
    return pd.DataFrame(rows)


def directions(found: Comparison) -> pd.DataFrame:
    """For each cell of `shown_table` "better" or "worse" than dense, "otherwise" with another protocol."""
    table = shown_table(found)
    marks = pd.DataFrame("", index=table.index, columns=table.columns)
    for row, line in enumerate(found.lines):
        for column, cell in zip(found.columns, line.cells, strict=True):
            if cell is not None and not cell.alike:
                marks.loc[row, column.heading] = "otherwise"
            elif cell is not None and cell.ratio is not None and abs(cell.ratio - 1) >= SMALL:
                better = (cell.ratio < 1) == line.lower_is_better
                marks.loc[row, column.heading] = "better" if better else "worse"
    return marks


def recipe_table(recipes: Mapping[str, Recipe]) -> pd.DataFrame:
    """Settings that differ: a row a setting, a column a run."""
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
    """One measurement of runs with equal protocols, with error bars, beside each dense model; the winner is ringed."""
    drawn = [
        (column, cell, place == line.winner)
        for place, (column, cell) in enumerate(zip(found.columns, line.cells, strict=True))
        if cell is not None and cell.alike and math.isfinite(cell.value)
    ]
    names = [wrapped_label(column.heading, 40, 3) for column, _, _ in drawn]
    rows = np.arange(len(drawn), dtype=np.int32)
    values = np.array([cell.value for _, cell, _ in drawn], float)
    dense = np.array([math.nan if cell.dense is None else cell.dense for _, cell, _ in drawn], float)
    errors = np.array([2 * (cell.standard_error or 0) for _, cell, _ in drawn])
    won = np.array([wins for _, _, wins in drawn], bool)
    stroke: dict[str, Any] = {"symbol": "line-ns", "size": 26, "line": {"color": theme.DENSE, "width": 3}}
    look = theme.SUBJECTS[line.subject]
    point: dict[str, Any] = {"color": look.colour, "symbol": look.symbol, "size": 11}
    ring: dict[str, Any] = {"symbol": "circle-open", "size": 20, "color": theme.CHOSEN, "line": {"width": 2.5}}
    figure = go.Figure()
    for name, mine, marker, x in (
        ("dense", np.isfinite(dense), stroke, dense),
        (line.subject, won | ~won, point, values),
        ("winner", won, ring, values),
    ):
        if mine.any():
            figure.add_trace(
                go.Scatter(
                    x=x[mine],
                    y=rows[mine],
                    text=np.array(names)[mine],
                    error_x={"array": errors, "color": look.colour, "width": 5} if name == line.subject else None,
                    mode="markers",
                    name=name,
                    marker=marker,
                    hovertemplate=f"%{{text}}<br>{name} %{{x:,.4~g}}<extra></extra>",
                )
            )
    figure.update_layout(height=140 + 48 * len(drawn), margin=MARGIN, legend=LEGEND, showlegend=True)
    figure.update_yaxes(
        tickvals=rows, ticktext=names, range=[len(drawn) - 0.4, -0.6], automargin=True, showgrid=False, zeroline=False
    )
    figure.update_xaxes(title=title(line), zeroline=False)
    whole = np.array([*values, *dense[np.isfinite(dense)]])
    if len(whole) and whole.min() > 0 and whole.max() >= WIDE * whole.min():
        figure.update_xaxes(**log_axis(whole), title=f"{title(line)} (log)")
    return Chart(
        title=f"Which run does best: {title(line)}?",
        figure=figure,
        takeaway=_takeaway(found, line, len(drawn)),
        table=number_table(Comparison(found.columns, (line,), ())),
        reading=(
            f"{'Lower' if line.lower_is_better else 'Higher'} is better. Bars: two standard errors of each run; on "
            "the same text, paired differences are more precise. Runs with another protocol are not drawn."
        ),
    )


def _takeaway(found: Comparison, line: Line, drawn: int) -> str:
    cell = None if line.winner is None else line.cells[line.winner]
    if line.winner is not None and cell is not None:
        value = plus_minus(cell.value, cell.standard_error)
        return f"**{plain(found.columns[line.winner].heading)}**, at {value}. {plain(line.reason)}"
    alone = "There is no other run to compare it with. " if drawn < 2 else ""
    return f"{alone}{plain(line.reason)}" or "No winner is named."


def _number(line: Line, value: float, error: float | None) -> str:
    if line.metric == SPARSITY:
        return f"{value:.2%}"
    if line.metric == "parameters":
        return millions(value)
    if line.metric == "bytes":
        return megabytes(value)
    if line.metric in HIGHER:
        return f"{plus_minus(100 * value, None if error is None else 100 * error)} %"
    return plus_minus(value, error)


def _change(line: Line, cell: Cell) -> str:
    if cell.ratio is None or cell.dense is None or not math.isfinite(cell.ratio):
        return ""
    if line.metric in HIGHER:
        points = 100 * (cell.value - cell.dense)
        return f" ({points:+.1f} points)" if abs(points) >= 0.05 else ""
    if abs(cell.ratio - 1) < SMALL:
        return " (±0 %)"
    return f" ({100 * (cell.ratio - 1):+.3g} %)" if cell.ratio < 10 else f" (x {cell.ratio:,.0f})"


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
