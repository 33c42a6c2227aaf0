"""Runs of one model side by side: what each sparsity costs, by criterion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

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
STAR = "star"  # of recovered models
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


class _Drawn(NamedTuple):
    """A run that read the same tokens: its pruned model's perplexity, and its recovered one's if any."""

    run: Standing
    pruned: Measurement
    recovered: Measurement | None

    @property
    def last(self) -> Measurement:
        return self.recovered or self.pruned

    @property
    def usable(self) -> bool:
        return math.isfinite(self.pruned.value) and self.pruned.value > 0


def perplexity_by_sparsity(mine: Standing, others: Sequence[Standing], ours: Measurement) -> Chart | None:
    """Every run that read the tokens of `ours`, by criterion, this one ringed; None where no other run did. A recovered
    model is a star above or below its pruned one.

    Args:
        ours: a perplexity of this run's pruned model.
    """
    found = [each for run in (mine, *others) if (each := _read(run, ours)) is not None]
    if len(found) < 2:
        return None
    dense = mine.report.find("perplexity", "dense", **{"corpus": ours.protocol.get("corpus")})
    drawn = [each for each in found if each.usable]
    values = [item.value for each in drawn for item in (each.pruned, each.recovered) if item is not None]
    every = np.array(values + ([dense.value] if dense else []))
    log = len(every) > 0 and every.max() >= WIDE * every.min()
    figure = go.Figure()
    if dense:
        figure.add_hline(y=dense.value, line={"color": theme.DENSE, "width": 2, "dash": "dash"})
    for index, criterion in enumerate(dict.fromkeys([*available(), *(each.run.criterion for each in found)])):
        part = [each for each in drawn if each.run.criterion == criterion]
        if part:
            _marks(figure, part, criterion, index)
    if any(each.recovered for each in drawn):
        star = {"color": theme.NEUTRAL, "size": 12, "symbol": STAR}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name="recovered", marker=star))
    for each in drawn:
        if each.run is mine:
            figure.add_trace(
                go.Scatter(
                    x=np.array([mine.sparsity], np.float32),
                    y=np.array([each.last.value], np.float32),
                    mode="markers",
                    name="this run",
                    marker={"symbol": "circle-open", "size": 20, "color": theme.CHOSEN, "line": {"width": 2.5}},
                    hoverinfo="skip",
                )
            )
    figure.update_layout(height=340, margin=MARGIN, legend=LEGEND, showlegend=True)
    figure.update_xaxes(title="Sparsity achieved", tickformat=".0%", showgrid=False, zeroline=False)
    shares = [each.run.sparsity for each in drawn]
    if shares and max(shares) - min(shares) < NARROW:
        figure.update_xaxes(range=[min(shares) - NARROW, max(shares) + NARROW])
    figure.update_yaxes(title="Perplexity" + (" (log)" if log else ""), zeroline=False)
    if log:
        figure.update_yaxes(**log_axis(every))
    stars = " Stars: after recovery, joined to the pruned model." if any(each.recovered for each in drawn) else ""
    return Chart(
        title=f"What do other runs reach on {ours.protocol.get('corpus', 'this text')}?",
        figure=figure,
        takeaway=_takeaway(mine, found),
        table=_table(mine, found),
        reading="Only runs of the same model on the same tokens. This run is ringed; the dashed line is the dense "
        f"model.{stars} Bars: two standard errors. {'Log' if log else 'Linear'} axis.",
    )


def _read(run: Standing, ours: Measurement) -> _Drawn | None:
    """A run's perplexities on the tokens of `ours`."""
    pruned = next((item for item in run.perplexities() if not differing(item, ours)), None)
    recovered = next((item for item in run.perplexities("recovered") if not differing(item, ours)), None)
    return None if pruned is None else _Drawn(run, pruned, recovered)


def _marks(figure: go.Figure, part: Sequence[_Drawn], criterion: str, index: int) -> None:
    """The runs of one criterion: pruned models as its symbol, recovered ones as stars joined to them."""
    colour = theme.CATEGORICAL[index % len(theme.CATEGORICAL)]
    trained = [each for each in part if each.recovered is not None]
    for each in trained:
        figure.add_trace(
            go.Scatter(
                x=np.repeat(np.float32(each.run.sparsity), 2),
                y=np.array([each.pruned.value, each.last.value], np.float32),
                mode="lines",
                line={"color": theme.translucent(colour, 0.6), "width": 1.5, "dash": "dot"},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    for recovered, chosen in ((False, part), (True, trained)):
        if not chosen:
            continue
        items = [each.last if recovered else each.pruned for each in chosen]
        words = [f"{each.run.balance}{f', {each.run.recovery}' if recovered else ''}" for each in chosen]
        names = [f"{escape(each.run.name)}, {escape(how)}" for each, how in zip(chosen, words, strict=True)]
        figure.add_trace(
            go.Scatter(
                x=np.array([each.run.sparsity for each in chosen], np.float32),
                y=np.array([item.value for item in items], np.float32),
                error_y={
                    "array": np.array([2 * (item.standard_error or 0) for item in items], np.float32),
                    "color": colour,
                    "thickness": 1.5,
                    "width": 4,
                },
                text=np.array(names),
                mode="markers",
                name=escape(criterion),
                showlegend=not recovered,
                marker={
                    "color": colour,
                    "size": 13 if recovered else 10,
                    "symbol": STAR if recovered else SYMBOLS[index % len(SYMBOLS)],
                },
                hovertemplate="%{text}<br>%{x:.2%} removed<br>perplexity %{y:,.4~g}<extra>%{fullData.name}</extra>",
            )
        )


def _takeaway(mine: Standing, found: Sequence[_Drawn]) -> str:
    """This run against the lowest, on equal terms: recovered models only where all runs had the same recovery."""
    own = next(each for each in found if each.run is mine)
    alike = len({each.run.terms for each in found}) == 1
    items = [each.last if alike else each.pruned for each in found]
    ours = own.last if alike else own.pruned
    terms = "" if not alike else f" after {mine.recovery}" if mine.recovery else ""
    least = min(item.value for item in items)
    words = f"This run reaches {plus_minus(ours.value, ours.standard_error)} at {mine.sparsity:.1%}{terms}"
    words += "" if alike else " before recovery, which differs between the runs"
    if ours.value == least:
        return f"{words}, the lowest of {len(found)} runs."
    best, item = next((each, item) for each, item in zip(found, items, strict=True) if item.value == least)
    return (
        f"{words}; the lowest of {len(found)} is {plus_minus(item.value, item.standard_error)}, by "
        f"{best.run.criterion} at {best.run.sparsity:.1%}."
    )


def _table(mine: Standing, found: Sequence[_Drawn]) -> pd.DataFrame:
    trained = any(each.recovered for each in found)
    rows = []
    for each in found:
        row: dict[str, object] = {
            "run": each.run.name,
            "this run": each.run is mine,
            "criterion": each.run.criterion,
            "sparsity": each.run.sparsity,
            "allocation": each.run.balance,
            "perplexity": each.pruned.value,
            "standard error": each.pruned.standard_error,
        }
        if trained:
            row["recovery"] = each.run.recovery or "none"
            row["recovered"] = each.recovered.value if each.recovered else math.nan
            row["recovered standard error"] = each.recovered.standard_error if each.recovered else math.nan
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["sparsity", "perplexity"], ignore_index=True)
