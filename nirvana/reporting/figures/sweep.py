"""Figures of a sweep: metric by sparsity, criterion and allocation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis, plus_minus
from nirvana.reporting.sweeps import Cell, cells, comparison, dense_value, higher_is_better, number, title, words
from nirvana.studies.sweep_rows import Row

DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot")  # "dot" is the dense model
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
WIDE = 3.0  # highest over lowest value from which an axis is logarithmic
BELOW = {**LEGEND, "y": -0.22, "yanchor": "top"}
PUBLISHED = "as published"


def by_sparsity(rows: Sequence[Row], metric: str) -> Chart | None:
    """`metric` over achieved sparsity, a line for each criterion and allocation; None without measurements."""
    found = [cell for cell in cells(rows, metric) if drawable(cell, metric)]
    if not found:
        return None
    style = Style(rows, found)
    figure = go.Figure()
    ways = dict.fromkeys(cell.way for cell in found)
    for way in sorted(ways, key=lambda way: (way.column == "published", style.order.index(way.criterion))):
        part = sorted((cell for cell in found if cell.way == way), key=lambda cell: cell.sparsity)
        _line(figure, part, style, metric)
    style.entries(figure, lines=True)
    dense = dense_value(rows, metric)
    if dense is not None:
        line = {"color": theme.DENSE, "width": 2, "dash": "dot"}
        figure.add_hline(y=dense[0], line=line)
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name="dense", line=line))
    values = np.array([value for cell in found for value in cell.values.values()] + ([dense[0]] if dense else []))
    log = quality_axis(figure, values, metric)
    figure.update_xaxes(title="Sparsity achieved", tickformat=".0%", showgrid=False, zeroline=False)
    figure.update_layout(height=style.height, margin=MARGIN, legend=BELOW, showlegend=True)
    return Chart(
        title=f"How does {words(metric)} depend on sparsity?",
        figure=figure,
        takeaway=_best_by_sparsity(found, dense, metric),
        table=cells_table(found),
        reading=(
            "Small marks: seeds. Lines: their means; bars: one standard deviation over seeds. Where the published "
            f"allocation is the shared one, both lines coincide. {log}"
        ),
    )


def comparison_table(rows: Sequence[Row], metric: str) -> pd.DataFrame:
    """Dense first, then a line for each criterion and sparsity: as published beside the same allocation, as text."""
    columns, lines = comparison(rows, metric)
    dense = dense_value(rows, metric)
    made: list[dict[str, Any]] = []
    if dense is not None:
        scale, unit = (100, " %") if higher_is_better(metric) else (1, "")
        shown = plus_minus(scale * dense[0], scale * dense[1] if dense[1] is not None else None) + unit
        made.append({"criterion": "dense", "sparsity": "0 %", **dict.fromkeys(columns, shown)})
    for line in lines:
        shown_cells = {name: _shown(line.cells.get(name)) for name in columns}
        made.append({"criterion": line.criterion, "sparsity": f"{100 * line.asked:.3g} %", **shown_cells})
    return pd.DataFrame(made, columns=["criterion", "sparsity", *columns])


def cells_table(found: Sequence[Cell]) -> pd.DataFrame:
    """One row a criterion, allocation and sparsity: mean and spread over seeds, and removed share."""
    return pd.DataFrame(
        [
            {
                "criterion": cell.way.criterion,
                "allocation": cell.way.contest,
                "asked": cell.asked,
                "sparsity": cell.sparsity,
                cell.metric: cell.mean,
                "standard deviation": cell.spread,
                "seeds": cell.n,
                "parameters": mean_size(cell, "parameters"),
                "bytes": mean_size(cell, "bytes"),
            }
            for cell in found
        ]
    )


@dataclass
class Style:
    """Colour by criterion, dash and symbol by contest, the same in every chart of a sweep."""

    rows: Sequence[Row]
    cells: Sequence[Cell]
    order: list[str] = field(init=False)
    contests: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.order = list(dict.fromkeys(row.point.criterion for row in self.rows))
        contests = dict.fromkeys(cell.way.contest for cell in self.cells)
        self.contests = sorted(contests, key=lambda name: name.startswith(PUBLISHED))  # the shared ones first

    @property
    def height(self) -> int:
        """Height in pixels: the legend is below, with more rows on a narrow screen."""
        return 330 + 10 * (len(self.order) + len(self.contests))

    def colour(self, cell: Cell) -> str:
        return theme.CATEGORICAL[self.order.index(cell.way.criterion) % len(theme.CATEGORICAL)]

    def dash(self, cell: Cell) -> str:
        return DASHES[self.contests.index(cell.way.contest) % len(DASHES)]

    def symbol(self, cell: Cell) -> str:
        return SYMBOLS[self.contests.index(cell.way.contest) % len(SYMBOLS)]

    def entries(self, figure: go.Figure, *, lines: bool) -> None:
        """Legend entries: a colour for each criterion, then dashes and symbols of allocations."""
        present = [name for name in self.order if any(cell.way.criterion == name for cell in self.cells)]
        for name in present:
            colour = theme.CATEGORICAL[self.order.index(name) % len(theme.CATEGORICAL)]
            marker = {"color": colour, "size": 10}
            figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker))
        for index, name in enumerate(self.contests if len(self.contests) > 1 else ()):
            marker = {"color": theme.NEUTRAL, "size": 9, "symbol": SYMBOLS[index % len(SYMBOLS)]}
            line = {"color": theme.NEUTRAL, "width": 2, "dash": DASHES[index % len(DASHES)]}
            mode = "lines+markers" if lines else "markers"
            figure.add_trace(go.Scatter(x=[None], y=[None], mode=mode, name=name, marker=marker, line=line))


def _line(figure: go.Figure, part: Sequence[Cell], style: Style, metric: str) -> None:
    """Means with their spread as a line, and every seed as a small mark that opens its run."""
    first = part[0]
    colour, hover = style.colour(first), "%{x:.2%} removed<br>" + hover_words(metric)
    seeds = [(cell.rows[seed], cell.values[seed]) for cell in part for seed in cell.rows]
    figure.add_trace(
        go.Scatter(
            x=np.array([row.sparsity for row, _ in seeds], np.float32),
            y=np.array([value for _, value in seeds], np.float32),
            customdata=[row.run_id for row, _ in seeds],
            text=[f"seed {row.point.seed}" for row, _ in seeds],
            mode="markers",
            marker={"color": theme.translucent(colour, 0.45), "size": 6, "symbol": style.symbol(first)},
            hovertemplate=f"{first.way.label}<br>%{{text}}<br>{hover}<extra></extra>",
            showlegend=False,
        )
    )
    spreads = [0.0 if math.isnan(cell.spread) else cell.spread for cell in part]
    figure.add_trace(
        go.Scatter(
            x=np.array([cell.sparsity for cell in part], np.float32),
            y=np.array([cell.mean for cell in part], np.float32),
            error_y={"array": np.array(spreads, np.float32), "color": colour, "thickness": 1.5, "width": 4},
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": style.dash(first)},
            marker={"color": colour, "size": 9, "symbol": style.symbol(first)},
            hovertemplate=f"{first.way.label}<br>mean over seeds<br>{hover}<extra></extra>",
            showlegend=False,
        )
    )


def mean_size(cell: Cell, name: str) -> float:
    return float(np.mean([row.sizes[name] for row in cell.rows.values()]))


def drawable(cell: Cell, metric: str) -> bool:
    values = list(cell.values.values())
    return bool(np.isfinite(values).all()) and (higher_is_better(metric) or min(values) > 0)


def quality_axis(figure: go.Figure, values: np.ndarray, metric: str) -> str:
    """Set up the axis of the metric; returns its description."""
    if higher_is_better(metric):
        figure.update_yaxes(title=title(metric), tickformat=".0%", zeroline=False)
        return "Linear axis."
    log = bool(values.max() >= WIDE * values.min())
    figure.update_yaxes(title=title(metric) + (" (log)" if log else ""), zeroline=False)
    if log:
        figure.update_yaxes(**log_axis(values))
    return "Log axis." if log else "Linear axis."


def hover_words(metric: str) -> str:
    return "%{y:.1%}" if higher_is_better(metric) else f"{metric.split(', ')[0]} %{{y:,.4~g}}"


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return number(cell) + ("" if cell.fair else f", at {cell.sparsity:.1%}")


def _best_by_sparsity(found: Sequence[Cell], dense: tuple[float, float | None] | None, metric: str) -> str:
    """The best mean at each sparsity; verdicts give its significance."""
    up = higher_is_better(metric)
    parts = []
    for asked in sorted({cell.asked for cell in found}):
        best = (max if up else min)((cell for cell in found if cell.asked == asked), key=lambda cell: cell.mean)
        parts.append(f"{number(best)} at {100 * asked:.3g} % ({best.way.criterion}, {best.way.contest})")
    word = "Highest" if up else "Lowest"
    shown = f" Dense: {100 * dense[0]:.1f} %." if dense and up else f" Dense: {plus_minus(*dense)}." if dense else ""
    return f"{word} means: {'; '.join(parts)}.{shown}"
