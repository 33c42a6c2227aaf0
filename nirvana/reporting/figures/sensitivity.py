"""Loss curves: one level as a heatmap of layers and modules, all levels as lines."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from nirvana.layout import KV_GROUP, NEURON, Layout, Site
from nirvana.loss_curves import Sensitivity, Shift
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import MARGIN
from nirvana.reporting.figures.chart import Chart, layer_axis, log_ticks, plus_minus
from nirvana.reporting.figures.names import part_name
from nirvana.runs.describe import compensation
from nirvana.saliency.agreement import rank_correlation

Shifts = Mapping[Site, Shift]
WIDE = 12.0  # highest over median KL from which colours are logarithmic
AGREE = 0.3  # rank correlation from which a plan follows a scan


def scan_heatmap(found: Sensitivity, level: float, layout: Layout, plan: PruningPlan | None) -> Chart:
    """KL of each site pruned alone at one of the levels, modules by layers; sites of one unit are blank."""
    shifts = found.at(level)
    rows = list(dict.fromkeys((site.stack, site.module) for site in layout))
    layers = sorted({site.layer for site in layout})
    names = [part_name(layout, *row) for row in rows]
    kl = np.full((len(rows), len(layers)), np.nan, np.float32)
    words = np.full(kl.shape, "", object)
    for site, shift in shifts.items():
        place = rows.index((site.stack, site.module)), layers.index(site.layer)
        kl[place] = shift.kl
        words[place] = (
            f"{plus_minus(shift.kl, shift.standard_error)} nats<br>{shift.removed:,} of {shift.units:,} units"
        )
    colours, bar = _colours(kl)
    figure = go.Figure(
        go.Heatmap(
            z=colours,
            x=layers,
            y=names,
            text=words,
            colorscale=theme.SEQUENTIAL,
            colorbar=bar,
            hovertemplate="layer %{x}, %{y}<br>%{text}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
        )
    )
    figure.update_layout(height=140 + 42 * len(rows), margin=MARGIN)
    figure.update_xaxes(**layer_axis(layers))
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False)
    return Chart(
        title="Which layers are most sensitive?",
        figure=figure,
        takeaway=_takeaway(shifts, layout, plan),
        table=_table(shifts, layout, plan),
        reading=f"Each cell: KL to the dense model when {level:.0%} of that module's units are removed, the "
        "lowest-scored, and no others. Blank: a module of one unit, of which none can be removed.",
    )


def loss_curves(found: Sensitivity, layout: Layout, plan: PruningPlan | None) -> Chart:
    """KL against the share of a module's units that is removed: a panel for each kind of module, a line a layer."""
    kinds = list(dict.fromkeys((site.stack, site.module) for site in found))
    figure = make_subplots(cols=len(kinds), rows=1, subplot_titles=[part_name(layout, *kind) for kind in kinds])
    layers = sorted({site.layer for site in found})
    shades = sample_colorscale(theme.SEQUENTIAL, np.linspace(0.25, 0.85, len(layers)).tolist())
    lowest = min((point.kl for curve in found.values() for point in curve if point.kl > 0), default=1e-6)
    for site, curve in found.items():
        figure.add_scatter(
            x=[point.removed / point.units for point in curve],
            y=[max(point.kl, lowest) for point in curve],
            error_y={"array": [point.standard_error for point in curve], "thickness": 0.5, "width": 0},
            mode="lines+markers",
            marker={"size": 4},
            line={"color": shades[layers.index(site.layer)], "width": 1.5},
            name=f"layer {site.layer}",
            hovertemplate=f"layer {site.layer}<br>%{{x:.0%}} of the units: %{{y:.3g}} nats<extra></extra>",
            showlegend=False,
            row=1,
            col=kinds.index((site.stack, site.module)) + 1,
        )
    ticks, labels = log_ticks(
        math.log10(lowest), math.log10(max(point.kl for curve in found.values() for point in curve) or 1.0)
    )
    figure.update_xaxes(tickformat=".0%", title="units removed", range=[0, max(found.levels) + 0.05])
    figure.update_yaxes(type="log", tickvals=[10**tick for tick in ticks], ticktext=labels, automargin=True)
    figure.update_yaxes(title="KL, nats", col=1)
    figure.update_layout(height=340, margin=MARGIN | {"t": 40})
    return Chart(
        title="What does a module cost as more of it is removed?",
        figure=figure,
        takeaway=_balance(found, layout, plan),
        table=_curve_table(found, layout),
        reading="Each line is a layer, from blue at the input to yellow at the output: the module is pruned alone, "
        "lowest-scored units first. The measured allocation follows the lower convex hull of these "
        "lines. Bars: one standard error.",
    )


def _balance(found: Sensitivity, layout: Layout, plan: PruningPlan | None) -> str:
    """KL per parameter of attention and MLP at the lowest level, and the rates of a measured plan."""
    words = []
    for kind in (KV_GROUP, NEURON):
        price = [
            curve[0].kl / (curve[0].removed * layout[site].cost)
            for site, curve in found.items()
            if layout[site].kind == kind
        ]
        if price:
            words.append(f"{np.median(price) * 1e6:.3g} nats in {'attention' if kind == KV_GROUP else 'the MLP'}")
    text = f"A million parameters cost, at the lowest level and the median layer: {', '.join(words)}."
    if plan is not None and plan.method == "measured" and plan.notes:
        text += f" {plan.notes[0]}"
    return text


def _curve_table(found: Sensitivity, layout: Layout) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": site.layer,
            "module": part_name(layout, site.stack, site.module),
            "units removed": point.removed,
            "units": point.units,
            "KL": point.kl,
            "standard error": point.standard_error,
        }
        for site, curve in found.items()
        for point in curve
    )


def scan_words(found: Sensitivity) -> str:
    """Protocol of a scan."""
    protocol = found.protocol
    compensated = compensation(protocol.get("compensation", {}).get("method", "none"))
    return (
        f"{protocol['samples']} x {protocol['length']} probe tokens, {protocol['criterion']} scores, "
        f"{', '.join([*compensated, protocol['dtype']])} on {protocol['device']}; ± is one standard error over probes."
    )


def _colours(kl: np.ndarray) -> tuple[np.ndarray, dict[str, object]]:
    """Colour values of the cells and the colour bar: logarithmic where one cell would dominate."""
    known = kl[np.isfinite(kl) & (kl > 0)]
    bar: dict[str, object] = {"title": "KL, nats", "thickness": 12}
    if not len(known) or known.max() < WIDE * np.median(known):
        return kl, bar
    colours = np.log10(np.maximum(kl, known.min()))
    ticks, labels = log_ticks(float(np.log10(known.min())), float(np.log10(known.max())))
    return colours, bar | {"title": "KL, nats (log)", "tickvals": ticks, "ticktext": labels}


def most_sensitive(shifts: Shifts) -> list[int]:
    """Layers by the highest KL of any of their modules, the most sensitive first."""
    worst: dict[int, float] = {}
    for site, shift in shifts.items():
        worst[site.layer] = max(worst.get(site.layer, 0.0), shift.kl)
    return sorted(worst, key=lambda layer: -worst[layer])


def _takeaway(found: Shifts, layout: Layout, plan: PruningPlan | None) -> str:
    worst = max(found, key=lambda site: found[site].kl)
    median = float(np.median([shift.kl for shift in found.values()]))
    times = f", {found[worst].kl / median:.3g} times the median" if median > 0 else ""
    words = (
        f"Layer {worst.layer}, {part_name(layout, worst.stack, worst.module)}: "
        f"{plus_minus(found[worst].kl, found[worst].standard_error)} nats{times}."
    )
    if plan is None:
        return words
    taken = agreement(found, plan)
    words += f" The plan removes {_rate(plan, worst):.0%} of it."
    if math.isnan(taken):
        return words
    order = f" Over all modules the rank correlation of KL and the share that the plan removes is {taken:.2f}: "
    if taken <= -AGREE:
        return words + order + "the plan removes less from sensitive modules."
    if taken >= AGREE:
        return words + order + "the plan removes more from sensitive modules; protecting layers avoids that."
    return words + order + "the plan does not follow this scan."


def agreement(found: Shifts, plan: PruningPlan) -> float:
    """Spearman's rank correlation of each site's KL and the plan's rate; NaN without an order."""
    pairs = np.array([(shift.kl, _rate(plan, site)) for site, shift in found.items() if site in plan])
    return rank_correlation(*pairs.T) if len(pairs) > 2 else math.nan


def _rate(plan: PruningPlan, site: Site) -> float:
    """Removed share of a site's units; 1 where the layer is removed."""
    return 1 - len(plan[site]) / plan.layout[site].units if site in plan else 1.0


def _table(found: Shifts, layout: Layout, plan: PruningPlan | None) -> pd.DataFrame:
    rows = [
        {
            "layer": site.layer,
            "module": part_name(layout, site.stack, site.module),
            "KL": shift.kl,
            "standard error": shift.standard_error,
            "units removed": shift.removed,
            "units": shift.units,
            "share that the plan removes": _rate(plan, site) if plan is not None else None,
        }
        for site, shift in found.items()
    ]
    return pd.DataFrame(rows).sort_values("KL", ascending=False, ignore_index=True)
