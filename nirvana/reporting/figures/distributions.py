"""Distributions of scores: by layer of a model, and over the units of one layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.layout import Site
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.chart import Chart, count, layer_axis, log_axis, positive_floor, short
from nirvana.reporting.figures.names import part_colour, unit_name
from nirvana.reporting.figures.saliency import best_first, module_sites
from nirvana.saliency.scores import Saliency

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def layer_distributions(saliency: Saliency, stack: str, module: str) -> Chart:
    """Quantile bands of one module's scores by layer, log axis; single points where a layer has few units."""
    sites = module_sites(saliency, stack, module)
    kind = saliency.layout[sites[0]].kind
    layers = np.array([site.layer for site in sites], np.int32)
    quantiles = np.stack([np.quantile(saliency[site], QUANTILES) for site in sites]).astype(np.float32)
    few = max(len(saliency[site]) for site in sites) <= 16
    colour = part_colour(module)
    figure = go.Figure()
    if few:
        x = np.repeat(layers, [len(saliency[site]) for site in sites])
        units = np.concatenate([np.arange(len(saliency[site])) for site in sites]).astype(np.int32)
        ranks = np.concatenate([saliency.ranks[site] + 1 for site in sites]).astype(np.int32)
        figure.add_trace(
            go.Scatter(
                x=x,
                y=np.concatenate([saliency[site] for site in sites]),
                customdata=np.stack([units, ranks], axis=1),
                mode="markers",
                name=f"one {kind}",
                marker={"color": colour, "size": 7, "opacity": 0.75},
                hovertemplate=f"layer %{{x}}, {kind} %{{customdata[0]}}<br>score %{{y:.3~g}}"
                "<br>rank %{customdata[1]:,} (1 is removed first)<extra></extra>",
            )
        )
    else:
        for low, high, opacity in ((0, 4, 0.18), (1, 3, 0.35)):
            name = f"{QUANTILES[low]:.0%} to {QUANTILES[high]:.0%}"
            edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": name}
            figure.add_trace(go.Scatter(x=layers, y=quantiles[:, low], showlegend=False, **edge))
            figure.add_trace(
                go.Scatter(
                    x=layers,
                    y=quantiles[:, high],
                    fill="tonexty",
                    fillcolor=theme.translucent(colour, opacity),
                    name=name,
                    **edge,
                )
            )
    figure.add_trace(
        go.Scatter(
            x=layers,
            y=quantiles[:, 2],
            customdata=quantiles,
            mode="lines+markers" if len(layers) <= 60 else "lines",
            name="median",
            line={"color": colour, "width": 2},
            marker={"size": 5},
            hovertemplate="layer %{x}<br>median %{y:.3~g}<br>middle half %{customdata[1]:.3~g} to "
            "%{customdata[3]:.3~g}<extra></extra>",
        )
    )
    values = np.concatenate([saliency[site] for site in sites])
    log = positive_floor(values) is not None
    figure.update_layout(
        height=320,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(**layer_axis(list(layers)))
    figure.update_yaxes(title="Score", **(log_axis(values if few else quantiles) if log else {}))
    medians = quantiles[:, 2]
    best, worst = int(np.argmax(medians)), int(np.argmin(medians))
    apart = f", {medians[best] / medians[worst]:,.1f} times apart" if medians[worst] > 0 else ""
    table = pd.DataFrame(quantiles, columns=[f"{quantile:.0%}" for quantile in QUANTILES])
    table.insert(0, "layer", layers)
    return Chart(
        title=f"How do {unit_name(saliency.layout, stack, module)} scores differ between layers?",
        figure=figure,
        takeaway=f"The median is highest in layer {layers[best]} ({short(medians[best])}) and lowest in layer "
        f"{layers[worst]} ({short(medians[worst])}){apart}.",
        table=table,
        reading=("Each point is one unit" if few else "Bands hold the middle 50 % and 90 % of a layer's units")
        + f"; the line is the median; {'log' if log else 'linear'} axis.",
    )


def score_curve(
    saliency: Saliency, site: Site, plan: PruningPlan | None = None, *, unit: int | None = None, height: int = 320
) -> Chart:
    """One site's scores from best to worst, with the units that `plan` removes in another colour, and `unit` marked.

    A click on the chart selects a point whose first `customdata` is the unit.
    """
    kind = saliency.layout[site].kind
    order = best_first(saliency, site)
    values = saliency[site][order]
    units = len(values)
    kept = len(plan[site]) if plan is not None and site in plan else units
    marked = [] if unit is None else [int(np.flatnonzero(order == unit)[0])]
    ends = [kept - 1, kept, *marked]
    shown = np.unique(np.concatenate([np.linspace(0, units - 1, min(units, 1024)).round(), ends]))
    shown = shown[(shown >= 0) & (shown < units)].astype(np.int32)
    colour = part_colour(site.module)
    figure = go.Figure()
    for name, part, fill in (
        ("kept", shown[shown < kept], colour),
        ("removed", shown[shown >= kept], theme.REMOVED),
    ):
        if not part.size:
            continue
        extra = np.stack([order[part], saliency.ranks[site][order[part]] + 1], axis=1).astype(np.int32)
        hover = (
            f"{kind} %{{customdata[0]}}, {name}<br>score %{{y:.3~g}}<br>place %{{x}} in this layer"
            "<br>rank %{customdata[1]:,} in the pool (1 is removed first)<extra></extra>"
        )
        if units <= 64:
            figure.add_trace(
                go.Bar(
                    x=part + 1,
                    y=values[part],
                    name=name,
                    marker={"color": fill},
                    customdata=extra,
                    hovertemplate=hover,
                )
            )
        else:
            figure.add_trace(
                go.Scatter(
                    x=part + 1,
                    y=values[part],
                    name=name,
                    mode="lines",
                    line={"color": fill, "width": 2},
                    fill="tozeroy" if positive_floor(values) is None else None,
                    customdata=extra,
                    hovertemplate=hover,
                )
            )
    for place in marked:
        figure.add_trace(
            go.Scatter(
                x=[place + 1],
                y=[values[place]],
                mode="markers",
                name=f"{kind} {unit}",
                marker={"symbol": "diamond", "size": 12, "color": theme.CUT_ON_HEATMAP},
                hovertemplate=f"{kind} {unit}<br>score %{{y:.3~g}}<extra></extra>",
            )
        )
    if 0 < kept < units:
        figure.add_vline(x=kept + 0.5, line={"color": theme.CUT, "width": 1.5, "dash": "dash"})
    curve = units > 64 and positive_floor(values) is not None
    figure.update_traces(selected_marker_opacity=1, unselected_marker_opacity=1)
    figure.update_layout(
        height=height,
        clickmode="event+select",
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        bargap=0.25,
    )
    figure.update_xaxes(title=f"{kind[0].upper() + kind[1:]}s, best first", showgrid=False, zeroline=False)
    if units <= 16:
        figure.update_xaxes(tickvals=list(range(1, units + 1)), ticktext=[f"{kind} {unit}" for unit in order])
    figure.update_yaxes(title="Score", **(log_axis(values) if curve else {"exponentformat": "power"}))
    takeaway = f"All {count(units, kind)} are kept; the best scores {short(values[0])}, the worst {short(values[-1])}."
    if kept < units:
        takeaway = f"{units - kept:,} of {count(units, kind)} are removed ({(units - kept) / units:.1%})"
        total = float(values.sum(dtype=np.float64))
        shares = total > 0 and values[-1] >= 0  # scores relative to a mean sum to zero
        lost = float(values[kept:].sum(dtype=np.float64)) / total if shares else 0.0
        takeaway += f", with {lost:.1%} of this layer's saliency." if shares else "."
    return Chart(
        title=f"Which {unit_name(saliency.layout, site.stack, site.module)}s of layer {site.layer} are removed?",
        figure=figure,
        takeaway=takeaway,
        table=unit_table(saliency, site, plan),
        reading=f"{'Log' if curve else 'Linear'} axis"
        + (f"; {len(shown):,} of {units:,} units drawn." if len(shown) < units else "."),
    )


def unit_table(saliency: Saliency, site: Site, plan: PruningPlan | None = None) -> pd.DataFrame:
    """Every unit of a site, best first: unit, score, place in the pool, and whether `plan` keeps it."""
    order = best_first(saliency, site)
    table = pd.DataFrame(
        {"unit": order, "score": saliency[site][order], "rank in the pool": saliency.ranks[site][order] + 1}
    )
    if plan is not None and site in plan:
        table["kept"] = np.isin(order, plan[site])
    return table
