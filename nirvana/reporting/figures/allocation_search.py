"""Figures of an allocation search: KL by step, and where the budget moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.layout import Layout
from nirvana.reporting.allocation_search import moved, steps_table, verdict
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, layer_axis
from nirvana.reporting.figures.names import layer_name, part_colour, part_name
from nirvana.studies.allocation_steps import SearchStep, accepted, best_widths, start_widths

HEIGHT = 320
MOST = 3.0  # over the start's KL; higher steps are drawn at the edge


def kl_by_step(steps: Sequence[SearchStep]) -> Chart:
    """KL of every step, and the best so far on the choosing and on the held-out probe; needs a measured start."""
    table, kept = steps_table(steps), accepted(steps)
    last = int(table["step"].max())
    figure = go.Figure()
    tried = table[~table["accepted"]]
    figure.add_trace(
        go.Scatter(
            x=tried["step"].to_numpy(np.int32),
            y=np.minimum(tried["KL"].to_numpy(float), MOST * kept[0].kl).astype(np.float32),
            mode="markers",
            name="not accepted",
            marker={"color": theme.NEUTRAL, "size": 6, "opacity": 0.6},
            hovertemplate="step %{x}<br>KL %{y:.4~g} nats<extra></extra>",
        )
    )
    for name, values, colour, dash in (
        ("best, choosing probe", [step.kl for step in kept], theme.PRUNED, "solid"),
        ("best, held-out probe", [step.held_out_kl for step in kept], theme.ATTENTION, "dash"),
    ):
        figure.add_trace(
            go.Scatter(
                x=np.array([*(step.number for step in kept), last], np.int32),
                y=np.array([*values, values[-1]], np.float32),
                mode="lines+markers",
                name=name,
                line={"color": colour, "width": 2.5, "shape": "hv", "dash": dash},
                marker={"size": 7},
                hovertemplate=f"step %{{x}}<br>%{{y:.4~g}} nats<extra>{name}</extra>",
            )
        )
    figure.update_layout(height=HEIGHT, margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(title="Step", showgrid=False, zeroline=False)
    figure.update_yaxes(title="KL, nats", zeroline=False)
    return Chart(
        title="Does another allocation of the same budget change the model less?",
        figure=figure,
        takeaway=verdict(steps),
        table=table,
        reading="One mark a plan that was tried. A plan is accepted if its KL on the choosing probe is the lowest so "
        "far; the held-out probe, other windows of the same texts, does not choose.",
    )


def moved_by_layer(settings: Mapping[str, Any], steps: Sequence[SearchStep], stack: str) -> Chart:
    """Change of each module's kept share from the start to the best plan."""
    layout, start = Layout.from_json(settings["layout"]), start_widths(settings)
    best = best_widths(start, steps)
    table = pd.DataFrame(
        [
            {
                "layer": site.layer,
                "module": site.module,
                "units": layout[site].units,
                "kept before": width,
                "kept now": best[site],
                "change": (best[site] - width) / layout[site].units,
            }
            for site, width in start.items()
            if site.stack == stack
        ]
    )
    figure = go.Figure()
    for module, rows in table.groupby("module", sort=False):
        figure.add_trace(
            go.Bar(
                x=rows["layer"].to_numpy(np.int32),
                y=rows["change"].to_numpy(np.float32),
                name=part_name(layout, stack, str(module)),
                marker={"color": part_colour(str(module))},
                customdata=rows[["kept now", "kept before", "units"]].to_numpy(np.int32),
                hovertemplate="layer %{x}<br>%{customdata[0]:,} of %{customdata[2]:,} units kept, before "
                "%{customdata[1]:,}<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_layout(height=HEIGHT, margin=MARGIN, legend=LEGEND, barmode="group", bargap=0.25)
    figure.update_xaxes(**layer_axis(sorted(table["layer"].unique())))
    figure.update_yaxes(title="Change of the kept share", tickformat="+.0%", zeroline=True, zerolinecolor=theme.CUT)
    return Chart(
        title=f"Where did the budget move in each {layer_name(layout, stack)}?",
        figure=figure,
        takeaway=moved(settings, steps),
        table=table,
        reading="Above 0 a module keeps more units than at the start, below fewer; the removed weights are as many.",
    )
