"""Figures of the Allocation page: kept units, and cuts in the rankings."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.layout import KV_GROUP, Site
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.chart import Chart, count, layer_axis, log_ticks, positive_floor, short
from nirvana.reporting.figures.names import layer_name, part_colour, part_name
from nirvana.saliency.scores import Saliency

BINS = 72
EQUAL = "Here all layers have equal widths."
MARGIN = {"l": 8, "r": 8, "t": 8, "b": 8}
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def stacked_height(parts: int) -> int:
    """Pixels of a figure of one stacked bar: on a narrow screen its legend has two parts a row."""
    return 130 + 12 * parts


def gamma_label(gamma: float) -> str:
    """E.g. "3.36", "∞"."""
    return "∞" if math.isinf(gamma) else f"{gamma:g}"


def kept_shares(plan: PruningPlan, stack: str) -> Chart:
    """Kept share of each layer's attention and MLP units."""
    layout, table = plan.layout, site_table(plan)
    table = table[table["stack"] == stack]
    figure = go.Figure()
    for module, rows in table.groupby("module", sort=False):
        figure.add_trace(
            go.Bar(
                x=rows["layer"].to_numpy(np.int32),
                y=rows["kept share"].to_numpy(np.float32),
                name=part_name(layout, stack, str(module)),
                marker={"color": part_colour(str(module))},
                customdata=rows[["after", "before"]].to_numpy(np.int32),
                hovertemplate=f"layer %{{x}}<br>%{{customdata[0]:,}} of %{{customdata[1]:,}} {rows['kind'].iloc[0]}s "
                "stay (%{y:.1%})<extra>%{fullData.name}</extra>",
            )
        )
    layers = sorted(table["layer"].unique())
    figure.update_layout(
        height=320,
        margin=MARGIN,
        legend=LEGEND,
        barmode="group",
        bargap=0.25,
        bargroupgap=0,
        hovermode="x unified",
    )
    figure.update_xaxes(**layer_axis(layers))
    figure.update_yaxes(title="Kept", range=[0, 1.02], tickformat=".0%", zeroline=False)
    lowest = table.nsmallest(1, "kept share").iloc[0]
    whole = int((table.groupby("layer")["kept share"].min() == 1).sum())
    return Chart(
        title=f"How much of each {layer_name(layout, stack)} is kept?",
        figure=figure,
        takeaway=f"Layer {lowest['layer']} loses most: {1 - lowest['kept share']:.0%} of its "
        f"{part_name(layout, stack, lowest['module'])}. {count(whole, 'layer')} of {len(layers)} "
        f"{'keeps' if whole == 1 else 'keep'} everything.",
        table=table.reset_index(drop=True),
        reading=EQUAL if plan.uniform else "",
    )


def score_histogram(saliency: Saliency, plan: PruningPlan, kind: str) -> Chart:
    """Histogram of one pool's scores, split into units that `plan` keeps and removes, with the cut. Counts come from
    each layer's sorted scores, so a slider move costs one search per layer.
    """
    sites = saliency.layout.pool(kind)
    low = min(float(saliency.sorted_scores[site][0]) for site in sites)
    high = max(float(saliency.sorted_scores[site][-1]) for site in sites)
    floors = [floor for site in sites if (floor := positive_floor(saliency[site])) is not None]
    log = bool(floors) and low >= 0
    bins = int(np.clip(sum(saliency.layout[site].units for site in sites) // 4, 8, BINS))
    if log:
        edges = np.logspace(np.log10(min(floors)), np.log10(high), bins + 1)
    else:
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    everything = np.zeros(bins, np.int64)
    gone = np.zeros(bins, np.int64)
    cut, lost, mass = -math.inf, 0, 0.0
    for site in sites:
        values = saliency.sorted_scores[site]
        removed = removed_scores(saliency, plan, site)
        below = np.searchsorted(values, edges[1:-1].astype(np.float32), side="right")
        everything += np.diff(np.concatenate([[0], below, [len(values)]]))
        below = np.searchsorted(removed, edges[1:-1].astype(np.float32), side="right")
        gone += np.diff(np.concatenate([[0], below, [len(removed)]]))
        lost += len(removed)
        if len(removed):
            cut = max(cut, float(removed[-1]))
            mass += float(removed.sum(dtype=np.float64))
    centres = (np.sqrt(edges[:-1] * edges[1:]) if log else (edges[:-1] + edges[1:]) / 2).astype(np.float32)
    widths = np.diff(np.log10(edges) if log else edges).astype(np.float32)
    x = np.log10(centres).astype(np.float32) if log else centres
    colour = theme.ATTENTION if kind == KV_GROUP else theme.MLP
    figure = go.Figure()
    for name, counts, fill in (("removed", gone, theme.REMOVED), ("kept", everything - gone, colour)):
        figure.add_trace(
            go.Bar(
                x=x,
                y=counts.astype(np.int32),
                width=widths,
                customdata=centres,
                name=name,
                marker={"color": fill, "line": {"width": 0}},
                hovertemplate=f"score about %{{customdata:.3~g}}<br>%{{y:,}} {kind}s {name}<extra></extra>",
            )
        )
    if lost:
        figure.add_vline(x=math.log10(max(cut, edges[0])) if log else cut, line={"color": theme.CUT, "dash": "dash"})
    figure.update_layout(height=300, margin=MARGIN, legend=LEGEND, barmode="stack", bargap=0)
    figure.update_xaxes(title="Score" + (" (log)" if log else ""), zeroline=False, showgrid=False)
    if log:
        ticks, labels = log_ticks(math.log10(edges[0]), math.log10(edges[-1]))
        figure.update_xaxes(tickvals=ticks, ticktext=labels)
    figure.update_yaxes(title=f"{kind[0].upper() + kind[1:]}s", zeroline=False)
    units = int(everything.sum())
    total = sum(float(saliency.sorted_scores[site].sum(dtype=np.float64)) for site in sites)
    takeaway = f"No {kind} is removed."
    if lost:
        takeaway = f"{lost:,} of {count(units, kind)} are removed ({lost / units:.1%})"
        takeaway += f", with {mass / total:.1%} of the saliency." if low >= 0 and total else "."
    table = pd.DataFrame({"score from": edges[:-1], "score to": edges[1:], "removed": gone, "kept": everything - gone})
    return Chart(
        title=f"Where does the cut fall among the {kind}s?",
        figure=figure,
        takeaway=takeaway,
        table=table,
        reading=(
            f"The dashed line is the highest removed score, {short(cut)}. Units left of it are kept by a "
            "floor, a protected layer, the width multiple, or a rule that ranks within layers."
            if lost
            else ""
        ),
    )


def removed_scores(saliency: Saliency, plan: PruningPlan, site: Site) -> np.ndarray:
    """Scores of the removed units, ascending: a site's lowest, unless the plan keeps lower ones, as plans of several
    rounds and of sites that must keep the same units do.
    """
    ascending, kept = saliency.sorted_scores[site], plan.get(site)
    gone = len(ascending) - (0 if kept is None else len(kept))
    if kept is not None and gone and saliency.ranks[site][kept].min() < saliency.sorted_ranks[site][gone]:
        return np.sort(np.delete(saliency[site], kept))
    return ascending[:gone]


def site_table(plan: PruningPlan) -> pd.DataFrame:
    """One row a site: units and parameters before and after."""
    rows = []
    for site, place in plan.layout.items():
        after = len(plan.get(site, ()))
        rows.append(
            {
                "stack": site.stack,
                "layer": site.layer,
                "module": site.module,
                "kind": place.kind,
                "before": place.units,
                "after": after,
                "kept share": after / place.units,
                "parameters before": place.parameters,
                "parameters after": after * place.cost,
                "protected": site in plan.protected,
            }
        )
    return pd.DataFrame(rows)
