"""Agreement of two criteria: order of a layer's units, and kept units."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.plan import PruningPlan
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, layer_axis
from nirvana.reporting.figures.names import part_colour, part_name
from nirvana.reporting.figures.saliency import module_sites, modules
from nirvana.saliency.agreement import kept_overlap, rank_correlation
from nirvana.saliency.scores import Saliency

FEW = 8  # units: a correlation over fewer takes few values


def same_order(one: Saliency, other: Saliency, stack: str, names: tuple[str, str]) -> Chart:
    """Spearman's rank correlation of two criteria's scores within each layer of `stack`.

    `names` label them. Both must have one layout.
    """
    table = pd.DataFrame(
        [
            {
                "module": module,
                "layer": site.layer,
                "units": len(one[site]),
                "rank correlation": rank_correlation(one[site], other[site]),
            }
            for module in modules(one, stack)
            for site in module_sites(one, stack, module)
        ]
    )
    figure = _lines(
        table,
        "rank correlation",
        one,
        stack,
        hover="layer %{x}<br>correlation %{y:.2f} over %{customdata:,} units<extra>%{fullData.name}</extra>",
    )
    figure.update_yaxes(title="Rank correlation", range=[-1.05, 1.05], zeroline=True, zerolinecolor=theme.NEUTRAL)
    few = [part_name(one.layout, stack, name) for name in modules(one, stack) if _units(table, name) <= FEW]
    return Chart(
        title=f"Do {names[0]} and {names[1]} order a layer's units alike?",
        figure=figure,
        takeaway=_by_module(table, "rank correlation", one, stack, "The mean correlation is", "{:.2f}"),
        table=table,
        reading="Spearman's correlation of the scores within each layer: 1 is the same order, 0 none in common, -1 the "
        "opposite. A gap: one of them gives all units of the layer the same score."
        + (f" With so few units, that of {' and '.join(few)} jumps." if few else ""),
    )


def same_units(one: PruningPlan, other: PruningPlan, saliency: Saliency, stack: str, names: tuple[str, str]) -> Chart:
    """Share of a layer's units kept by either plan that both plans keep, beside the share expected by chance."""
    rows = []
    for module in modules(saliency, stack):
        for site in module_sites(saliency, stack, module):
            nothing = np.empty(0, np.int64)  # of a layer that is removed
            mine, theirs = one.get(site, nothing), other.get(site, nothing)
            overlap = kept_overlap(mine, theirs, saliency.layout[site].units)
            rows.append(
                {
                    "module": module,
                    "layer": site.layer,
                    "units": saliency.layout[site].units,
                    f"kept by {names[0]}": len(mine),
                    f"kept by {names[1]}": len(theirs),
                    "shared": overlap.share,
                    "by chance": overlap.chance,
                }
            )
    table = pd.DataFrame(rows)
    figure = _lines(
        table,
        "shared",
        saliency,
        stack,
        hover="layer %{x}<br>%{y:.1%} shared, of %{customdata:,} units<extra>%{fullData.name}</extra>",
    )
    for name, part in table.groupby("module", sort=False):
        figure.add_trace(
            go.Scatter(
                x=part["layer"].to_numpy(np.int32),
                y=part["by chance"].to_numpy(np.float32),
                mode="lines",
                name=f"{part_name(saliency.layout, stack, str(name))}, by chance",
                line={"color": part_colour(str(name)), "width": 1.5, "dash": "dot"},
                hovertemplate="layer %{x}<br>%{y:.1%} by chance<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_yaxes(title="Shared", range=[-0.02, 1.02], tickformat=".0%", zeroline=False)
    return Chart(
        title=f"Do {names[0]} and {names[1]} keep the same units?",
        figure=figure,
        takeaway=_by_module(table, "shared", saliency, stack, "Both keep, of what either keeps,", "{:.0%}"),
        table=table,
        reading="Both have the allocation of the Allocation page. Shared: units that both keep, over units that "
        "either keeps. Dotted: what sets of the same sizes would share if they were drawn at random.",
    )


def _lines(table: pd.DataFrame, column: str, saliency: Saliency, stack: str, *, hover: str) -> go.Figure:
    figure = go.Figure()
    for module, part in table.groupby("module", sort=False):
        figure.add_trace(
            go.Scatter(
                x=part["layer"].to_numpy(np.int32),
                y=part[column].to_numpy(np.float32),
                customdata=part["units"].to_numpy(np.int32),
                mode="lines+markers",
                name=part_name(saliency.layout, stack, str(module)),
                line={"color": part_colour(str(module)), "width": 2},
                marker={"size": 5},
                hovertemplate=hover,
            )
        )
    figure.update_layout(height=320, margin=MARGIN, legend=LEGEND, showlegend=True)
    figure.update_xaxes(**layer_axis(sorted(table["layer"].unique())))
    return figure


def _units(table: pd.DataFrame, module: str) -> int:
    return int(table.loc[table["module"] == module, "units"].max())


def _by_module(table: pd.DataFrame, column: str, saliency: Saliency, stack: str, start: str, form: str) -> str:
    """Means over layers, e.g. "The mean correlation is 0.41 for attention and 0.87 for MLP."."""
    means = {str(module): float(part[column].mean()) for module, part in table.groupby("module", sort=False)}
    clauses = [
        f"{form.format(mean)} for {part_name(saliency.layout, stack, module)}"
        for module, mean in means.items()
        if mean == mean
    ]
    if not clauses:
        return "There is nothing to compare: one of them gives all units of every layer the same score."
    return f"{start} {' and '.join(clauses)}."
