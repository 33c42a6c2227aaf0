"""Figure of recovery in a sweep: each way to prune before and after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis
from nirvana.reporting.sweep_recovery import Mean, Pair, before_after, ranking_words
from nirvana.reporting.sweeps import higher_is_better, title, words
from nirvana.runs.describe import RECOVERIES, percent
from nirvana.studies.sweep_rows import Row

WIDE = 3.0  # highest over lowest value from which an axis is logarithmic
SHIFT = 0.18  # between the marks of several recoveries in one row
LOOKS = dict(zip(RECOVERIES.values(), (theme.RECOVERED, theme.CROSS_ATTENTION, theme.ATTENTION), strict=True))
SHOWN = 3  # sentences of the takeaway


def recovery_by_way(rows: Sequence[Row], metric: str) -> Chart | None:
    """`metric` of each way to prune before and after recovery, joined by a line; None without a recovered point."""
    pairs = before_after(rows, metric)
    if not pairs:
        return None
    labels = list(dict.fromkeys(pair.label for pair in pairs))
    recoveries = list(dict.fromkeys(pair.cell.way.recovery for pair in pairs))
    ratio = metric.startswith("perplexity")
    figure = go.Figure()
    if ratio:
        figure.add_vline(x=1, line={"color": theme.DENSE, "width": 2, "dash": "dash"})
    for place, recovery in enumerate(recoveries):
        part = [pair for pair in pairs if pair.cell.way.recovery == recovery]
        shift = SHIFT * (place - (len(recoveries) - 1) / 2)
        places = np.array([labels.index(pair.label) + shift for pair in part], np.float32)
        gaps = np.array([[pair.before.value, pair.after.value, math.nan] for pair in part], np.float32)
        figure.add_trace(
            go.Scatter(
                x=gaps.ravel(),
                y=np.repeat(places, 3),
                mode="lines",
                line={"color": theme.translucent(theme.NEUTRAL, 0.6), "width": 3},
                hoverinfo="skip",
                showlegend=False,
            )
        )
        look = theme.SUBJECTS["pruned"]
        _marks(figure, [pair.before for pair in part], places, "pruned", look.colour, look.symbol, legend=not place)
        name, symbol = f"after {recovery}", theme.SUBJECTS["recovered"].symbol
        _marks(figure, [pair.after for pair in part], places, name, LOOKS[recovery], symbol)
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=_short(pairs),
        range=[len(labels) - 0.4, -0.6],
        automargin=True,
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(height=150 + 36 * len(labels), margin=MARGIN, legend=LEGEND, showlegend=True)
    named = "Perplexity over dense" if ratio else title(metric)
    every = np.array([end for pair in pairs for end in (pair.before.value, pair.after.value)])
    log = not higher_is_better(metric) and bool(every.min() > 0 and every.max() >= WIDE * every.min())
    figure.update_xaxes(title=named + (" (log)" if log else ""), zeroline=False)
    if higher_is_better(metric):
        figure.update_xaxes(tickformat=".0%")
    if log:
        figure.update_xaxes(**log_axis(every))
    said = ranking_words(pairs, metric)
    more = f" And {len(said) - SHOWN} more." if len(said) > SHOWN else ""
    seeds = max(pair.cell.n for pair in pairs)
    bars = "Bars: 95 % intervals over seeds." if seeds > 1 else "One seed: no intervals."
    return Chart(
        title=f"Does recovery change which way has the best {words(metric)}?",
        figure=figure,
        takeaway=" ".join(said[:SHOWN]) + more or _one(pairs[0]),
        table=_table(pairs, metric),
        reading=f"One row a way to prune, from the best before recovery. {bars} {'Log' if log else 'Linear'} axis.",
    )


def _short(pairs: Sequence[Pair]) -> list[str]:
    """A label for each row, with the sparsity and the rules where they differ, on two lines."""
    rows = {pair.label: pair.cell for pair in pairs}
    several = len({cell.asked for cell in rows.values()}) > 1
    rules = len({cell.way.rules for cell in rows.values()}) > 1
    found = []
    for cell in rows.values():
        first = cell.way.criterion + (f", {percent(cell.asked)}" if several else "")
        found.append("<br>".join(map(escape, [first, *([cell.way.rules] if rules else [])])))
    return found


def _marks(
    figure: go.Figure,
    means: Sequence[Mean],
    places: np.ndarray,
    name: str,
    colour: str,
    symbol: str,
    *,
    legend: bool = True,
) -> None:
    values, low, high = (np.array([getattr(mean, end) for mean in means]) for end in ("value", "low", "high"))
    known = np.isfinite(low) & np.isfinite(high)
    figure.add_trace(
        go.Scatter(
            x=values.astype(np.float32),
            y=places,
            error_x={
                "array": np.where(known, high - values, 0).astype(np.float32),
                "arrayminus": np.where(known, values - low, 0).astype(np.float32),
                "color": colour,
                "thickness": 1.5,
                "width": 4,
            },
            mode="markers",
            name=name,
            showlegend=legend,
            marker={"color": colour, "size": 11, "symbol": symbol},
            hovertemplate=f"%{{x:,.4~g}} {name}<extra></extra>",
        )
    )


def _one(pair: Pair) -> str:
    way = pair.cell.way
    return f"{pair.label}: from {pair.before.value:.3g} to {pair.after.value:.3g} after {way.recovery}."


def _table(pairs: Sequence[Pair], metric: str) -> pd.DataFrame:
    unit = "times dense" if metric.startswith("perplexity") else metric
    rows = []
    for pair in pairs:
        way = pair.cell.way
        row = {"criterion": way.criterion, "allocation": way.rules, "asked": pair.cell.asked, "recovery": way.recovery}
        for name, mean in (("before", pair.before), ("after", pair.after)):
            row |= {f"{unit}, {name}": mean.value, f"{name}, low": mean.low, f"{name}, high": mean.high}
        rows.append(row | {"seeds": pair.cell.n})
    return pd.DataFrame(rows)
