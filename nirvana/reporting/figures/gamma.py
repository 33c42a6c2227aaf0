"""gamma on the Method page: the rates that it asks for, and those of the plan, which removes whole KV groups."""

from __future__ import annotations

import math

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


def rates_in_jumps(layout: Layout, sparsity: float, gamma: float) -> Chart:
    """Attention's and the MLP's rates over gamma: dotted as gamma ties them, solid with whole KV groups and the budget
    exact. Floors and width multiples are left out. The axis is gamma / (1 + gamma).
    """
    places = np.linspace(0, 1, 801)
    gammas = [_gamma(float(place)) for place in places]
    asked = np.array([_asked(layout, sparsity, each) for each in gammas], np.float32)
    whole = np.array([_whole(layout, sparsity, each) for each in gammas], np.float32)
    here = _place(gamma)
    now, wanted = _whole(layout, sparsity, gamma), _asked(layout, sparsity, gamma)
    labels = [gamma_label(round(each, 2)) for each in gammas]
    figure = go.Figure()
    for index, (name, colour) in enumerate((("attention", theme.ATTENTION), ("MLP", theme.MLP))):
        for values, line, kind in (
            (whole, {"color": colour, "width": 3, "shape": "hv"}, "removed"),
            (asked, {"color": colour, "width": 1.5, "dash": "dot"}, "asked for"),
        ):
            figure.add_trace(
                go.Scatter(
                    x=places.astype(np.float32),
                    y=values[:, index],
                    text=labels,
                    mode="lines",
                    name=f"{name}, {kind}",
                    line=line,
                    hovertemplate=f"gamma %{{text}}<br>%{{y:.1%}} of {name} {kind}<extra></extra>",
                )
            )
        figure.add_trace(
            go.Scatter(
                x=[here],
                y=[now[index]],
                mode="markers",
                marker={"color": colour, "size": 12, "line": {"color": "white", "width": 1.5}},
                showlegend=False,
                hovertemplate=f"gamma {gamma_label(gamma)}<br>%{{y:.1%}} of {name} removed<extra></extra>",
            )
        )
    figure.add_vline(x=here, line={"color": theme.CUT, "width": 1, "dash": "dot"})
    figure.update_layout(height=370, margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(
        title="gamma", tickvals=[_place(each) for each in TICKS], ticktext=[*map(gamma_label, TICKS)], zeroline=False
    )
    figure.update_yaxes(title="Removed", tickformat=".0%", range=[0, 1.02], zeroline=False)
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


def _asked(layout: Layout, sparsity: float, gamma: float) -> tuple[float, float]:
    try:
        rates = pruning_rates(layout, sparsity=sparsity, gamma=gamma)
    except PlanError:  # gamma prunes only a kind of unit that the model lacks
        return NO_RATES
    return (rates.attention, rates.mlp) if max(rates) <= 1 + 1e-9 else NO_RATES


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
