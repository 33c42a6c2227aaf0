"""The sensitivity scan as a heatmap of layers and modules."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.evaluation.sensitivity_result import Sensitivity
from nirvana.layout import Layout, Site
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import MARGIN
from nirvana.reporting.figures.chart import Chart, layer_axis, log_ticks, plus_minus
from nirvana.reporting.figures.names import part_name
from nirvana.saliency.agreement import rank_correlation

WIDE = 12.0  # highest over median KL from which colours are logarithmic
AGREE = 0.3  # rank correlation from which a plan and a scan go together


def scan_heatmap(found: Sensitivity, layout: Layout, plan: PruningPlan | None) -> Chart:
    """KL of each site pruned alone, modules by layers; sites of one unit are blank."""
    rows = list(dict.fromkeys((site.stack, site.module) for site in layout))
    layers = sorted({site.layer for site in layout})
    names = [part_name(layout, *row) for row in rows]
    kl = np.full((len(rows), len(layers)), np.nan, np.float32)
    words = np.full(kl.shape, "", object)
    for site, shift in found.items():
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
        title="Which layers does the model miss most?",
        figure=figure,
        takeaway=_takeaway(found, layout, plan),
        table=_table(found, layout, plan),
        reading=f"Each cell: KL to the dense model when {found.protocol['rate']:.0%} of that module's units go, the "
        "lowest-scored, and nothing else does. Blank: a module of one unit, of which none can go.",
    )


def scan_words(found: Sensitivity) -> str:
    """How a scan was measured."""
    protocol = found.protocol
    return (
        f"{protocol['samples']} x {protocol['length']} probe tokens, {protocol['criterion']} scores, "
        f"{protocol['dtype']} on {protocol['device']}; ± is one standard error over probes."
    )


def _colours(kl: np.ndarray) -> tuple[np.ndarray, dict[str, object]]:
    """Colour values of the cells and the colour bar: logarithms where one cell would dominate."""
    known = kl[np.isfinite(kl) & (kl > 0)]
    bar: dict[str, object] = {"title": "KL, nats", "thickness": 12}
    if not len(known) or known.max() < WIDE * np.median(known):
        return kl, bar
    colours = np.log10(np.maximum(kl, known.min()))
    ticks, labels = log_ticks(float(np.log10(known.min())), float(np.log10(known.max())))
    return colours, bar | {"title": "KL, nats (log)", "tickvals": ticks, "ticktext": labels}


def most_sensitive(found: Sensitivity) -> list[int]:
    """Layers by the highest KL of any of their modules, the most sensitive first."""
    worst: dict[int, float] = {}
    for site, shift in found.items():
        worst[site.layer] = max(worst.get(site.layer, 0.0), shift.kl)
    return sorted(worst, key=lambda layer: -worst[layer])


def _takeaway(found: Sensitivity, layout: Layout, plan: PruningPlan | None) -> str:
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
    words += f" The plan takes {_rate(plan, worst):.0%} of it."
    if math.isnan(taken):
        return words
    said = f" Over all modules the rank correlation of KL and what the plan takes is {taken:.2f}: "
    if taken <= -AGREE:
        return words + said + "it takes less where the model would miss more."
    if taken >= AGREE:
        return words + said + "it takes more where the model would miss more, which protecting layers can mend."
    return words + said + "it goes by something else than this scan."


def agreement(found: Sensitivity, plan: PruningPlan) -> float:
    """Spearman's rank correlation of each site's KL and the share of it that the plan takes; NaN without an order."""
    pairs = np.array([(shift.kl, _rate(plan, site)) for site, shift in found.items() if site in plan])
    return rank_correlation(*pairs.T) if len(pairs) > 2 else math.nan


def _rate(plan: PruningPlan, site: Site) -> float:
    """Share of a site's units that go; all of them where the layer does."""
    return 1 - len(plan[site]) / plan.layout[site].units if site in plan else 1.0


def _table(found: Sensitivity, layout: Layout, plan: PruningPlan | None) -> pd.DataFrame:
    rows = [
        {
            "layer": site.layer,
            "module": part_name(layout, site.stack, site.module),
            "KL": shift.kl,
            "standard error": shift.standard_error,
            "units removed": shift.removed,
            "units": shift.units,
            "share that the plan takes": _rate(plan, site) if plan is not None else None,
        }
        for site, shift in found.items()
    ]
    return pd.DataFrame(rows).sort_values("KL", ascending=False, ignore_index=True)
