"""Figures of the Allocation page: kept and removed share of each part of the model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.allocation.rules import RULES
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN, site_table, stacked_height
from nirvana.reporting.figures.chart import Chart
from nirvana.reporting.figures.names import part_colour, part_colours, part_name, parts


def kept_by_part(plan: PruningPlan) -> Chart:
    """Share of the weights that remain in each stack's modules, for a model with two stacks."""
    layout, table = plan.layout, site_table(plan)
    table = table.groupby(["stack", "module", "kind"], sort=False).sum(numeric_only=True).reset_index()
    table = table[["stack", "module", "kind", "before", "after", "parameters before", "parameters after"]]
    table["kept share"] = table["parameters after"] / table["parameters before"]
    figure = go.Figure(
        go.Bar(
            y=[part_name(layout, *part) for part in parts(layout)],
            x=table["kept share"].to_numpy(np.float32),
            orientation="h",
            marker={"color": [part_colour(module) for module in table["module"]]},
            customdata=table[["after", "before", "kind"]],
            text=[f"{share:.0%}" for share in table["kept share"]],
            textposition="auto",
            hovertemplate="%{customdata[0]:,} of %{customdata[1]:,} %{customdata[2]}s stay (%{x:.1%})"
            "<extra>%{y}</extra>",
        )
    )
    figure.update_layout(height=60 + 42 * len(table), margin=MARGIN, bargap=0.25)
    figure.update_xaxes(title="Kept, of the weights", range=[0, 1.02], tickformat=".0%", zeroline=False)
    figure.update_yaxes(autorange="reversed")
    sums = table.groupby("stack", sort=False)[["parameters before", "parameters after"]].sum()
    shares = sums["parameters after"] / sums["parameters before"]
    least = table.nsmallest(1, "kept share").iloc[0]
    return Chart(
        title=f"Does the {' or the '.join(layout.stacks)} lose more?",
        figure=figure,
        takeaway=f"{' and '.join(f'the {stack} keeps {share:.1%}' for stack, share in shares.items()).capitalize()} of "
        f"its prunable weights; the {part_name(layout, least['stack'], least['module'])} keeps least, "
        f"{least['kept share']:.1%}.",
        table=table,
        reading=(
            "Heads of both stacks and of cross-attention share one ranking, as do the neurons of both stacks, so the "
            "scores determine these shares."
        )
        if plan.method == "shared" and not plan.uniform
        else RULES[plan.method].summary,
    )


def parameters_by_part(plan: PruningPlan) -> Chart:
    """Every parameter of the model, split into never pruned, kept and removed; the parts sum to the whole."""
    table = part_table(plan)
    colours = part_colours(plan.layout)
    figure = go.Figure()
    for part, parameters, share, fate in table.itertuples(index=False):
        gone = fate == "removed"
        colour = colours.get(part.partition(",")[0], theme.NEUTRAL)
        figure.add_trace(
            go.Bar(
                y=["parameters"],
                x=[parameters],
                name=part,
                orientation="h",
                marker={
                    "color": theme.translucent(colour, 0.25 if gone else 1.0),
                    "pattern": {"shape": "/" if gone else "", "fgcolor": colour, "size": 6},
                    "line": {"color": "white", "width": 1},
                },
                hovertemplate=f"{part}<br>{parameters:,} parameters ({share:.1%})<extra></extra>",
            )
        )
    figure.update_layout(
        height=stacked_height(len(table)),
        margin=MARGIN,
        barmode="stack",
        legend=LEGEND | {"traceorder": "normal"},
        bargap=0.1,
    )
    figure.update_yaxes(visible=False)
    figure.update_xaxes(title="Parameters", showgrid=False, range=[0, plan.layout.parameters])
    prunable = plan.layout.prunable
    return Chart(
        title="Where do the removed parameters come from?",
        figure=figure,
        takeaway=f"{plan.removed:,} of {prunable:,} prunable parameters are removed ({plan.sparsity:.3%}), which is "
        f"{plan.removed / plan.layout.parameters:.1%} of the whole model.",
        table=table,
        reading=f"The parts sum to {int(table['parameters'].sum()):,}, the whole model.",
    )


def part_table(plan: PruningPlan) -> pd.DataFrame:
    """Part, parameters, share of the model, and whether kept or removed; the parameters sum to
    `plan.layout.parameters`.
    """
    layout = plan.layout
    found: list[tuple[str, int, str]] = [(part, size, "never pruned") for part, size in layout.other.items()]
    for stack, module in parts(layout):
        sites = [site for site in layout if (site.stack, site.module) == (stack, module)]
        kept, name = (
            sum(len(plan.get(site, ())) * layout[site].cost for site in sites),
            part_name(layout, stack, module),
        )
        found.append((f"{name}, kept", kept, "kept"))
        found.append((f"{name}, removed", sum(layout[site].parameters for site in sites) - kept, "removed"))
    before = sum(place.units * place.biases + place.output_bias for place in layout.values())
    after = sum(len(plan[site]) * layout[site].biases + layout[site].output_bias for site in plan)
    if before:
        found += [("biases, kept", after, "kept"), ("biases, removed", before - after, "removed")]
    rows = [(part, size, size / layout.parameters, fate) for part, size, fate in found if size]
    return pd.DataFrame(rows, columns=["part", "parameters", "share", "fate"])
