"""Runs of one model side by side: what each sparsity costs, by criterion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.evaluation.results import Measurement
from nirvana.reporting.contests import differing
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis, plus_minus
from nirvana.reporting.standings import Standing
from nirvana.saliency.criteria import available

NARROW = 0.05  # sparsities closer than this are drawn with that much room around them
WIDE = 8.0  # highest over lowest perplexity from which the axis is logarithmic
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


def perplexity_by_sparsity(mine: Standing, others: Sequence[Standing], ours: Measurement) -> Chart | None:
    """Every run that read the tokens of `ours`, by criterion, this one ringed; None where no other run did."""
    found = [(mine, ours)]
    for other in others:
        match = next((item for item in other.perplexities() if not differing(item, ours)), None)
        if match is not None:
            found.append((other, match))
    if len(found) < 2:
        return None
    dense = mine.report.find("perplexity", "dense", **{"corpus": ours.protocol.get("corpus")})
    drawn = [(run, item) for run, item in found if math.isfinite(item.value) and item.value > 0]
    values = np.array([item.value for _, item in drawn] + ([dense.value] if dense else []))
    log = len(values) > 0 and values.max() >= WIDE * values.min()
    figure = go.Figure()
    if dense:
        figure.add_hline(y=dense.value, line={"color": theme.DENSE, "width": 2, "dash": "dash"})
    for index, criterion in enumerate(dict.fromkeys([*available(), *(run.criterion for run, _ in found)])):
        part = [(run, item) for run, item in drawn if run.criterion == criterion]
        if not part:
            continue
        colour = theme.CATEGORICAL[index % len(theme.CATEGORICAL)]
        figure.add_trace(
            go.Scatter(
                x=np.array([run.sparsity for run, _ in part], np.float32),
                y=np.array([item.value for _, item in part], np.float32),
                error_y={
                    "array": np.array([2 * (item.standard_error or 0) for _, item in part], np.float32),
                    "color": colour,
                    "thickness": 1.5,
                    "width": 4,
                },
                text=np.array([f"{escape(run.name)}, {escape(run.balance)}" for run, _ in part]),
                mode="markers",
                name=escape(criterion),
                marker={
                    "color": colour,
                    "size": 10,
                    "symbol": SYMBOLS[index % len(SYMBOLS)],
                },
                hovertemplate="%{text}<br>%{x:.2%} removed<br>perplexity %{y:,.4~g}<extra>%{fullData.name}</extra>",
            )
        )
    if any(run is mine for run, _ in drawn):
        figure.add_trace(
            go.Scatter(
                x=np.array([mine.sparsity], np.float32),
                y=np.array([ours.value], np.float32),
                mode="markers",
                name="this run",
                marker={"symbol": "circle-open", "size": 20, "color": theme.REMOVED, "line": {"width": 2.5}},
                hoverinfo="skip",
            )
        )
    figure.update_layout(height=340, margin=MARGIN, legend=LEGEND, showlegend=True)
    figure.update_xaxes(title="Sparsity achieved", tickformat=".0%", showgrid=False, zeroline=False)
    shares = [run.sparsity for run, _ in drawn]
    if shares and max(shares) - min(shares) < NARROW:
        figure.update_xaxes(range=[min(shares) - NARROW, max(shares) + NARROW])
    figure.update_yaxes(title="Perplexity" + (" (log)" if log else ""), zeroline=False)
    if log:
        figure.update_yaxes(**log_axis(values))
    return Chart(
        title=f"What do other runs reach on {ours.protocol.get('corpus', 'this text')}?",
        figure=figure,
        takeaway=_takeaway(mine, found, ours),
        table=_table(mine, found),
        reading="Only runs of the same model on the same tokens. This run is ringed; the dashed line is the dense "
        f"model. Bars: two standard errors. {'Log' if log else 'Linear'} axis.",
    )


def _takeaway(mine: Standing, found: Sequence[tuple[Standing, Measurement]], ours: Measurement) -> str:
    least = min(item.value for _, item in found)
    words = f"This run reaches {plus_minus(ours.value, ours.standard_error)} at {mine.sparsity:.1%}"
    if ours.value == least:
        return f"{words}, the lowest of {len(found)} runs."
    best, item = next((run, item) for run, item in found if item.value == least)
    return (
        f"{words}; the lowest of {len(found)} is {plus_minus(item.value, item.standard_error)}, by {best.criterion} "
        f"at {best.sparsity:.1%}."
    )


def _table(mine: Standing, found: Sequence[tuple[Standing, Measurement]]) -> pd.DataFrame:
    rows = [
        {
            "run": run.name,
            "this run": run is mine,
            "criterion": run.criterion,
            "sparsity": run.sparsity,
            "allocation": run.balance,
            "perplexity": item.value,
            "standard error": item.standard_error,
        }
        for run, item in found
    ]
    return pd.DataFrame(rows).sort_values(["sparsity", "perplexity"], ignore_index=True)
