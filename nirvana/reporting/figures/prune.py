"""Figures of the Prune page: each layer before and after pruning."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from nirvana.plan import PruningPlan
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN, site_table
from nirvana.reporting.figures.chart import Chart, layer_axis
from nirvana.reporting.figures.names import part_colour, unit_name


def sizes_by_layer(plan: PruningPlan, stack: str, module: str) -> Chart:
    """Units of one module before (outline) and after (solid), by layer."""
    table = site_table(plan)
    table = table[(table["stack"] == stack) & (table["module"] == module)].reset_index(drop=True)
    kind, unit = str(table["kind"].iloc[0]), unit_name(plan.layout, stack, module)
    layers = table["layer"].to_numpy(np.int32)
    before, after = table["before"].to_numpy(np.int32), table["after"].to_numpy(np.int32)
    figure = go.Figure()
    figure.add_trace(
        go.Bar(
            x=layers,
            y=before,
            name="before",
            marker={"color": theme.translucent(theme.NEUTRAL, 0.35)},
            width=0.86,
            hovertemplate="%{y:,} before<extra></extra>",
        )
    )
    figure.add_trace(
        go.Bar(
            x=layers,
            y=after,
            name="after",
            marker={"color": part_colour(module)},
            width=0.56,
            customdata=(1 - after / before).astype(np.float32),
            hovertemplate="%{y:,} after (%{customdata:.1%} removed)<extra></extra>",
        )
    )
    figure.update_layout(height=300, margin=MARGIN, legend=LEGEND, barmode="overlay", hovermode="x unified")
    figure.update_xaxes(**layer_axis(list(layers)))
    figure.update_yaxes(title=f"{kind[0].upper() + kind[1:]}s", zeroline=False)
    if before.max() <= 12:
        figure.update_yaxes(tickmode="linear", dtick=1)
    changed = int((after < before).sum())
    worst = int(np.argmin(after / before))
    takeaway = (
        f"{before.sum():,} {unit}s become {after.sum():,}; {changed} of {len(layers)} layers shrink, layer "
        f"{layers[worst]} most: {before[worst]:,} to {after[worst]:,}."
        if changed
        else f"All {before.sum():,} {unit}s are kept."
    )
    return Chart(
        title=f"How many {unit}s does each layer keep?",
        figure=figure,
        takeaway=takeaway,
        table=table,
        reading="Grey: before. Colour: after.",
    )


def module_diff(plan: PruningPlan) -> str:
    """One line a site whose size changes, e.g. `decoder.5.mlp        1536 => 1216`."""
    rows = [(site, place.units, len(plan.get(site, ()))) for site, place in plan.layout.items()]
    width = max(len(site.key) for site, _, _ in rows)
    lines = [f"{site.key:<{width}}  {old:>6} => {new:<6}".rstrip() for site, old, new in rows if old != new]
    return "\n".join(lines) or "No module changes size."
