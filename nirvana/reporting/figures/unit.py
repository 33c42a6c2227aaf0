"""Figures of the Unit page: tokens that drive a unit, and its rank by each criterion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.evaluation.unit_inspection_results import UnitInspection
from nirvana.layout import Site
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import MARGIN
from nirvana.reporting.figures.chart import Chart, count, short
from nirvana.reporting.figures.names import part_colour
from nirvana.saliency.scores import Saliency


class Standing(NamedTuple):
    """A unit by one criterion: its rank among `units` of its kind (1 is removed first), and whether a plan keeps it."""

    criterion: str
    run: str
    score: float
    rank: int
    units: int
    kept: bool | None

    @property
    def share(self) -> float:
        """Share of the units that are removed before it, in [0, 1]."""
        return (self.rank - 1) / max(self.units - 1, 1)


def standing(saliency: Saliency, site: Site, unit: int, criterion: str, run: str, kept: bool | None) -> Standing:
    """Score and rank of a unit."""
    units = sum(saliency.layout[each].units for each in saliency.layout.pool(saliency.layout[site].kind))
    rank = int(saliency.ranks[site][unit]) + 1
    return Standing(criterion, run, float(saliency[site][unit]), rank, units, kept)


def ranks_by_criterion(standings: Sequence[Standing], kind: str, colour: str) -> Chart:
    """The unit's rank by each criterion, from removed first to kept longest; hollow where that plan removes it."""
    names = [item.criterion for item in standings]
    figure = go.Figure(
        go.Scatter(
            x=[item.share for item in standings],
            y=list(range(len(names))),
            mode="markers",
            marker={
                "size": 14,
                "color": colour,
                "line": {"color": colour, "width": 2},
                "symbol": ["circle-open" if item.kept is False else "circle" for item in standings],
            },
            customdata=[[short(item.score), f"{item.rank:,}", f"{item.units:,}", item.run] for item in standings],
            hovertemplate="score %{customdata[0]}<br>rank %{customdata[1]} of %{customdata[2]} (1 is removed first)"
            "<br>%{customdata[3]}<extra></extra>",
        )
    )
    figure.update_layout(height=150 + 34 * len(names), margin=MARGIN, showlegend=False)
    figure.update_xaxes(range=[-0.03, 1.03], tickformat=".0%", title=f"{kind}s removed before it", zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, autorange="reversed", automargin=True, zeroline=False
    )
    low, high = min(standings, key=lambda item: item.share), max(standings, key=lambda item: item.share)
    takeaway = f"{high.criterion} ranks it above {high.share:.0%} of all {high.units:,} {kind}s"
    if len(standings) > 1:
        takeaway += f", {low.criterion} above {low.share:.0%}"
    return Chart(
        title="Do the criteria agree about it?" if len(standings) > 1 else "How does it rank?",
        figure=figure,
        takeaway=f"{takeaway}.",
        table=pd.DataFrame([item._asdict() for item in standings]),
        reading="Right: kept longest. Hollow: the plan from these scores, with the present allocation, removes it.",
    )


def driving_tokens(found: UnitInspection) -> Chart:
    """The tokens with the largest mean size of the driving quantity."""
    names = [_label(item.text) for item in found.tokens]
    means = np.array([item.mean for item in found.tokens], np.float32)
    often = [item.occurrences for item in found.tokens]
    figure = go.Figure(
        go.Bar(
            x=means,
            y=list(range(len(names))),
            orientation="h",
            marker={"color": part_colour(found.site.module)},
            customdata=often,
            hovertemplate="mean %{x:.3~g} over %{customdata:,} occurrences<extra></extra>",
        )
    )
    typical = found.quantiles[len(found.quantiles) // 2]
    figure.add_vline(x=typical, line={"color": theme.CUT, "width": 1.5, "dash": "dash"})
    figure.update_layout(height=80 + 26 * len(names), margin=MARGIN, showlegend=False)
    figure.update_xaxes(title="Mean size", rangemode="tozero")
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, autorange="reversed", automargin=True, zeroline=False
    )
    best = found.tokens[0]
    factor = f", {best.mean / typical:,.1f} times the median over all positions" if typical > 0 else ""
    return Chart(
        title="Which tokens drive it most on average?",
        figure=figure,
        takeaway=f"{_label(best.text)}, with a mean size of {short(best.mean)} over "
        f"{count(best.occurrences, 'occurrence')}{factor}.",
        table=pd.DataFrame({"token": [item.text for item in found.tokens], "occurrences": often, "mean size": means}),
        reading="Tokens that occur once are left out unless there are too few others. ␣ is a space; the dashed line is "
        "the median over all positions.",
    )


def weight_table(found: UnitInspection, units: int) -> pd.DataFrame:
    """Norm of the unit's part of each weight matrix, beside the mean of its module."""
    return pd.DataFrame(
        {
            "weight": [item.name for item in found.weights],
            "norm": [item.norm for item in found.weights],
            "mean of the module": [item.mean for item in found.weights],
            f"place among {units:,}": [item.place for item in found.weights],
        }
    )


def _label(text: str) -> str:
    """A token with visible spaces and line ends, without Plotly's HTML."""
    shown = text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥") or "(empty)"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
