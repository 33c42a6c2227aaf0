"""Pruning rates over gamma: those that it asks for, and those of a plan, which removes whole KV groups."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.allocation.shared import groups_wanted, pruning_rates
from nirvana.errors import PlanError
from nirvana.layout import KV_GROUP, NEURON, Layout
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN, gamma_label
from nirvana.reporting.figures.chart import Chart, count

TICKS = (0, 0.25, 0.5, 1, 2, 4, 10, math.inf)
NO_RATES = (math.nan, math.nan)
MODULES = (("attention", theme.ATTENTION), ("MLP", theme.MLP))


def rates_by_gamma(layout: Layout, sparsity: float, gamma: float, reachable: float) -> Chart:
    """The two pruning rates over gamma at one sparsity; x = gamma / (1 + gamma), so that infinity is on the axis."""
    places = np.linspace(0, 1, 201)
    gammas = [_gamma(float(place)) for place in places]
    rates = np.array([_rates(layout, sparsity, each) for each in gammas], np.float32)
    now = _rates(layout, sparsity, gamma)
    figure = go.Figure()
    for index, (name, colour) in enumerate(MODULES):
        _add_line(figure, gammas, rates[:, index], name, f"{name} removed", {"color": colour, "width": 2})
        _add_mark(figure, gamma, now[index], name, colour)
    _finish(figure, gamma, height=300, top=1.25)
    figure.add_hline(y=1, line={"color": theme.CUT, "width": 1})
    figure.update_xaxes(showgrid=False)
    return Chart(
        title=f"How does gamma distribute a sparsity of {sparsity:.1%}?",
        figure=figure,
        takeaway=(
            f"With gamma {gamma_label(gamma)}, {now[0]:.1%} of attention and {now[1]:.1%} of the MLP are removed; "
            f"at most {reachable:.1%} can be removed in all."
        ),
        table=pd.DataFrame({"gamma": gammas, "attention removed": rates[:, 0], "MLP removed": rates[:, 1]}),
        reading="Above 100 %, gamma cannot be satisfied. The axis is gamma / (1 + gamma).",
    )


def rates_in_jumps(layout: Layout, sparsity: float, gamma: float) -> Chart:
    """Attention's and the MLP's rates over gamma: dotted as gamma ties them, solid with whole KV groups and the budget
    exact. Floors and width multiples are left out. The axis is gamma / (1 + gamma).
    """
    places = np.linspace(0, 1, 801)
    gammas = [_gamma(float(place)) for place in places]
    asked = np.array([_asked(layout, sparsity, each) for each in gammas], np.float32)
    whole = np.array([_whole(layout, sparsity, each) for each in gammas], np.float32)
    now, wanted = _whole(layout, sparsity, gamma), _asked(layout, sparsity, gamma)
    figure = go.Figure()
    for index, (name, colour) in enumerate(MODULES):
        for values, line, kind in (
            (whole, {"color": colour, "width": 3, "shape": "hv"}, "removed"),
            (asked, {"color": colour, "width": 1.5, "dash": "dot"}, "asked for"),
        ):
            _add_line(figure, gammas, values[:, index], f"{name}, {kind}", f"{name} {kind}", line)
        _add_mark(figure, gamma, now[index], name, colour)
    _finish(figure, gamma, height=370, top=1.02)
    groups = sum(layout[site].units for site in layout.pool(KV_GROUP))
    possible = not math.isnan(now[0])
    return Chart(
        title=(
            f"gamma {gamma_label(gamma)} removes {now[0]:.0%} of attention and {now[1]:.0%} of the MLP"
            if possible
            else f"gamma {gamma_label(gamma)} asks for more than there is"
        ),
        figure=figure,
        takeaway=(
            f"gamma asks for {wanted[0]:.1%} of {count(groups, 'KV group')}, "
            f"which are removed whole: {round(now[0] * groups):,}. The MLP takes the rest of the budget."
            if possible
            else "A rate would be above 100 %. Lower the sparsity, or move gamma towards 1."
        ),
        table=pd.DataFrame(
            {
                "gamma": gammas,
                "attention asked for": asked[:, 0],
                "MLP asked for": asked[:, 1],
                "attention removed": whole[:, 0],
                "MLP removed": whole[:, 1],
            }
        ),
        reading="Solid: with whole KV groups. Dotted: the rates of the formula. No line where gamma cannot be "
        "satisfied; floors and width multiples are left out. The axis is gamma / (1 + gamma).",
    )


def _gamma(place: float) -> float:
    return place / (1 - place) if place < 1 else math.inf


def _place(gamma: float) -> float:
    return gamma / (1 + gamma) if math.isfinite(gamma) else 1.0


def _add_line(
    figure: go.Figure, gammas: Sequence[float], values: np.ndarray, name: str, words: str, line: dict[str, object]
) -> None:
    """`values` over gamma; `words` tell what a value is the share of."""
    figure.add_trace(
        go.Scatter(
            x=np.array([_place(each) for each in gammas], np.float32),
            y=values,
            text=[gamma_label(round(each, 2)) for each in gammas],
            mode="lines",
            name=name,
            line=line,
            hovertemplate=f"gamma %{{text}}<br>%{{y:.1%}} of {words}<extra></extra>",
        )
    )


def _add_mark(figure: go.Figure, gamma: float, value: float, name: str, colour: str) -> None:
    """The rate at the chosen gamma."""
    figure.add_trace(
        go.Scatter(
            x=[_place(gamma)],
            y=[value],
            mode="markers",
            marker={"color": colour, "size": 12, "line": {"color": "white", "width": 1.5}},
            showlegend=False,
            hovertemplate=f"gamma {gamma_label(gamma)}<br>%{{y:.1%}} of {name} removed<extra></extra>",
        )
    )


def _finish(figure: go.Figure, gamma: float, *, height: int, top: float) -> None:
    """Axes, and a line at the chosen gamma."""
    figure.add_vline(x=_place(gamma), line={"color": theme.CUT, "width": 1, "dash": "dot"})
    figure.update_layout(height=height, margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(
        title="gamma", tickvals=[_place(each) for each in TICKS], ticktext=[*map(gamma_label, TICKS)], zeroline=False
    )
    figure.update_yaxes(title="Removed", tickformat=".0%", range=[0, top], zeroline=False)


def _rates(layout: Layout, sparsity: float, gamma: float) -> tuple[float, float]:
    """Pruning rates, also above 1; NaN where gamma prunes only a kind of unit that the model lacks."""
    try:
        return pruning_rates(layout, sparsity=sparsity, gamma=gamma)
    except PlanError:
        return NO_RATES


def _asked(layout: Layout, sparsity: float, gamma: float) -> tuple[float, float]:
    """Pruning rates; NaN where they cannot be satisfied."""
    rates = _rates(layout, sparsity, gamma)
    return rates if max(rates) <= 1 + 1e-9 else NO_RATES


def _whole(layout: Layout, sparsity: float, gamma: float) -> tuple[float, float]:
    """Shares of attention and MLP parameters that go when whole KV groups are removed and the MLP takes the rest."""
    asked = _asked(layout, sparsity, gamma)
    groups = sum(layout[site].units for site in layout.pool(KV_GROUP))
    attention, mlp = layout.pool_parameters(KV_GROUP), layout.pool_parameters(NEURON)
    if math.isnan(asked[0]) or not groups or not mlp:
        return asked
    share = groups_wanted(layout, pruning_rates(layout, sparsity=sparsity, gamma=gamma)) / groups
    rest = (sparsity * (attention + mlp) - share * attention) / mlp
    return (share, rest) if rest <= 1 + 1e-9 else NO_RATES
