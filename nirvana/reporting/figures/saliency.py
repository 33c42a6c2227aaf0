"""Heatmaps of the Saliency page: scores by layer and unit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.layout import Site
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.chart import Chart, count, layer_axis, log_ticks, positive_floor, short
from nirvana.reporting.figures.names import unit_name
from nirvana.saliency.scores import Saliency

COLUMNS = 512  # more are indistinguishable on a screen and take megabytes to transfer
COLOURS = ("log", "linear", "rank")


def module_sites(saliency: Saliency, stack: str, module: str) -> list[Site]:
    """The sites of one module in one stack, by layer."""
    return sorted(site for site in saliency.layout if (site.stack, site.module) == (stack, module))


def modules(saliency: Saliency, stack: str) -> list[str]:
    """The prunable modules of a stack, e.g. ["attention", "mlp"]."""
    return list(dict.fromkeys(site.module for site in saliency.layout if site.stack == stack))


class Bins(NamedTuple):
    """Scores of one module on a grid: row = layer, column = `width` neighbouring units; NaN beyond a layer's end."""

    score: np.ndarray  # (layers, columns) float32, mean over the bin
    rank: np.ndarray  # (layers, columns) float32, mean rank in the pool, 1 = first to go
    filled: np.ndarray  # (layers, columns) int64, units in the bin
    width: int


def bin_units(saliency: Saliency, sites: list[Site], *, ordered: bool = False, columns: int = COLUMNS) -> Bins:
    """Average each layer's scores and ranks in at most `columns` bins of equal width.

    `ordered` sorts each layer's units first, best score first.
    """
    longest = max(len(saliency[site]) for site in sites)
    width = -(-longest // columns)
    shape = (len(sites), -(-longest // width), width)
    score, rank = np.full(shape, np.nan), np.full(shape, np.nan)
    for row, site in enumerate(sites):
        values, ranks = saliency[site], saliency.ranks[site]
        if ordered:
            values, ranks = saliency.sorted_scores[site][::-1], saliency.sorted_ranks[site][::-1]
        score[row].reshape(-1)[: len(values)] = values
        rank[row].reshape(-1)[: len(ranks)] = ranks + 1
    filled = (~np.isnan(score)).sum(axis=2)

    def mean(values: np.ndarray) -> np.ndarray:
        means = np.nansum(values, axis=2) / np.maximum(filled, 1)
        return np.where(filled, means, np.nan).astype(np.float32)

    return Bins(mean(score), mean(rank), filled, width)


def unit_heatmap(
    saliency: Saliency,
    stack: str,
    module: str,
    *,
    colour: str = "log",
    ordered: bool = False,
    plan: PruningPlan | None = None,
    selected: int | None = None,
    unit: int | None = None,
) -> Chart:
    """Layers x units of one module, at most 512 columns, layer 0 at the top.

    In sorted order a line marks how many units `plan` keeps; the row of layer `selected` is outlined, and its `unit`
    marked. A click on the chart selects a point; `unit_at` gives its unit.
    """
    sites = module_sites(saliency, stack, module)
    kind = saliency.layout[sites[0]].kind
    name = unit_name(saliency.layout, stack, module)
    bins = bin_units(saliency, sites, ordered=ordered)
    if colour == "log" and positive_floor(bins.score[np.isfinite(bins.score)]) is None:
        colour = "linear"
    layers = np.array([site.layer for site in sites], np.int32)
    columns = bins.score.shape[1]
    pool = sum(saliency.layout[site].units for site in saliency.layout.pool(kind))
    z, bar = _colours(bins, colour, pool)
    low, high = _robust(z)
    centres = np.arange(columns, dtype=np.float32) * bins.width + np.float32((bins.width - 1) / 2)
    figure = go.Figure(
        go.Heatmap(
            x=centres,
            y=layers,
            z=z,
            colorscale=theme.SEQUENTIAL,
            zmin=low,
            zmax=high,
            colorbar=bar,
            hoverinfo="skip",
        )
    )
    if ordered and plan is not None:
        figure.add_trace(_kept_line(plan, sites))
    figure.add_trace(_targets(saliency, sites, ordered))
    if selected is not None and selected in layers:
        figure.add_hrect(selected - 0.5, selected + 0.5, line={"color": theme.CUT_ON_HEATMAP, "width": 2})
        if unit is not None:
            figure.add_trace(_mark(saliency, Site(stack, selected, module), unit, ordered))
    figure.update_layout(
        height=max(260, min(350, 17 * len(sites) + 90)),  # it stays on the first screen
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        hovermode="closest",
        clickmode="event+select",
        dragmode=False,
        showlegend=False,
    )
    figure.update_yaxes(**layer_axis(list(layers)), range=[layers[-1] + 0.5, layers[0] - 0.5])
    label = f"{kind}s, best first" if ordered else kind[0].upper() + kind[1:]
    longest = max(len(saliency[site]) for site in sites)
    figure.update_xaxes(title=label, showgrid=False, zeroline=False, range=[-0.5, longest - 0.5])
    if columns <= 12:
        figure.update_xaxes(tickmode="linear", tick0=0, dtick=1)
    return Chart(
        title=f"Which {name}s score high?",
        figure=figure,
        takeaway=_concentration(saliency, sites, name),
        table=_bin_table(sites, bins),
        reading=_heatmap_reading(kind, bins.width, colour, ordered, plan is not None),
    )


def _colours(bins: Bins, colour: str, pool: int) -> tuple[np.ndarray, dict[str, object]]:
    """Values of the heatmap, and its colour bar."""
    bar: dict[str, object] = {"thickness": 10, "outlinewidth": 0, "title": {"text": "score", "side": "right"}}
    floor = positive_floor(bins.score[np.isfinite(bins.score)])
    if colour == "rank":
        bar["title"] = {"text": "rank, 100 % = best", "side": "right"}
        return bins.rank / np.float32(pool), bar | {"tickformat": ".0%"}
    if colour == "linear" or floor is None:
        return bins.score, bar | {"exponentformat": "power"}
    z = np.log10(np.maximum(bins.score, np.float32(floor))).astype(np.float32)
    ticks, labels = log_ticks(*_robust(z))
    return z, bar | {"tickvals": ticks, "ticktext": labels}


def _robust(z: np.ndarray) -> tuple[float, float]:
    """The 1st and 99th percentile, so that a few extreme units do not set the range of colours."""
    low, high = np.nanpercentile(z, [1, 99])
    return float(low), float(high if high > low else low + 1)


def _targets(saliency: Saliency, sites: list[Site], ordered: bool) -> go.Scatter:
    """Invisible squares for hovers and clicks, since a heatmap reports no clicks. Each covers several units; some 2500
    in all, which a browser draws fast.
    """
    across = max(24, 2500 // len(sites))
    tiles = bin_units(saliency, sites, ordered=ordered, columns=across)
    table = _bin_table(sites, tiles)
    kind = saliency.layout[sites[0]].kind
    pool = sum(saliency.layout[site].units for site in saliency.layout.pool(kind))
    first, last = table["first unit"], table["last unit"]
    if tiles.width == 1:
        name, mean = ("place " if ordered else f"{kind} ") + "%{customdata[0]}", ""
    else:
        name, mean = ("places " if ordered else f"{kind}s ") + "%{customdata[0]} to %{customdata[1]}", "mean "
    return go.Scatter(
        x=((first + last) / 2).to_numpy(np.float32),
        y=table["layer"].to_numpy(np.int32),
        customdata=table[["first unit", "last unit", "mean score", "mean rank"]].to_numpy(np.float32),
        mode="markers",
        marker={"symbol": "square", "size": 18, "opacity": 0},
        hovertemplate=f"layer %{{y}}, {name}<br>{mean}score %{{customdata[2]:.3~g}}<br>{mean}rank "
        f"%{{customdata[3]:,.0f}} of {pool:,} (1 is removed first)<extra></extra>",
        showlegend=False,
    )


def unit_at(saliency: Saliency, site: Site, place: float, ordered: bool) -> int:
    """The unit at a horizontal place of the heatmap, the nearest one in its layer."""
    near = min(max(round(place), 0), saliency.layout[site].units - 1)
    return int(best_first(saliency, site)[near]) if ordered else near


def best_first(saliency: Saliency, site: Site) -> np.ndarray:
    """int64 (units,): the units of a site, highest score first."""
    return np.argsort(saliency.ranks[site])[::-1]


def _mark(saliency: Saliency, site: Site, unit: int, ordered: bool) -> go.Scatter:
    """A marker at the selected unit."""
    place = int(np.flatnonzero(best_first(saliency, site) == unit)[0]) if ordered else unit
    return go.Scatter(
        x=[place],
        y=[site.layer],
        mode="markers",
        marker={"symbol": "diamond", "size": 12, "color": theme.CUT_ON_HEATMAP, "line": {"color": "white", "width": 2}},
        hoverinfo="skip",
        showlegend=False,
    )


def _kept_line(plan: PruningPlan, sites: list[Site]) -> go.Scatter:
    """A staircase at each layer's kept width."""
    layers = np.array([site.layer for site in sites], np.float32)
    widths = np.array([len(plan[site]) if site in plan else 0 for site in sites], np.float32) - np.float32(0.5)
    return go.Scatter(
        x=np.repeat(widths, 2),
        y=np.stack([layers - np.float32(0.5), layers + np.float32(0.5)], axis=1).ravel(),
        mode="lines",
        line={"color": theme.CUT_ON_HEATMAP, "width": 2},
        hoverinfo="skip",
    )


def _concentration(saliency: Saliency, sites: list[Site], unit: str) -> str:
    values = np.concatenate([saliency[site] for site in sites])
    best = max(sites, key=lambda site: float(saliency[site].max()))
    peak = f"the highest score, {short(saliency[best].max())}, is in layer {best.layer}"
    if (values < 0).any() or not values.any():
        return peak[0].upper() + peak[1:] + "."
    running = np.cumsum(np.sort(values)[::-1], dtype=np.float64)
    half = int(np.searchsorted(running, running[-1] / 2)) + 1
    return f"Half of the saliency is in {count(half, unit)} of {len(values):,}; {peak}."


def _bin_table(sites: list[Site], bins: Bins) -> pd.DataFrame:
    """One row a bin that holds units."""
    columns = bins.score.shape[1]
    starts = np.arange(columns) * bins.width
    table = pd.DataFrame(
        {
            "layer": np.repeat([site.layer for site in sites], columns),
            "first unit": np.tile(starts, len(sites)),
            "last unit": (starts + bins.filled - 1).ravel(),
            "mean score": bins.score.ravel(),
            "mean rank": bins.rank.ravel(),
        }
    )
    return table[bins.filled.ravel() > 0].reset_index(drop=True)


def _heatmap_reading(kind: str, width: int, colour: str, ordered: bool, cut: bool) -> str:
    cell = f"one {kind}" if width == 1 else f"the mean over {width} neighbouring {kind}s"
    order = (
        " Each layer is sorted, best first" + ("; the line marks the number of kept units." if cut else ".")
        if ordered
        else ""
    )
    return (
        f"Layer 0 is at the top. A cell is {cell}. Colour: {colour}{'' if colour == 'rank' else ' scale'}, clipped to "
        f"the 1st to 99th percentile.{order}"
    )
