"""The selection on pages: controls that clicks set, and the detail of the selected layer or unit."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import selection
from nirvana.dashboard.panels.charts import clicked
from nirvana.dashboard.panels.messages import page_link
from nirvana.layout import Layout, Site
from nirvana.plan import PruningPlan
from nirvana.reporting.figures.chart import Chart, count, short
from nirvana.reporting.figures.names import part_name
from nirvana.reporting.figures.theme import CUT_ON_HEATMAP
from nirvana.saliency.scores import Saliency


def take_layer_click(key: str, layout: Layout, stack: str) -> None:
    """Select the layer of a chart over layers that was clicked; called before its controls are drawn."""
    point = clicked(key)
    if point is not None and round(point["x"]) in layout.layers(stack):
        selection.choose(layout, stack=stack, layer=round(point["x"]))
        st.rerun()


def over_layers(chart: Chart, layout: Layout, stack: str) -> Chart:
    """A chart over the layers of a stack, with the selected one outlined; a click keeps the colours of the others."""
    now = selection.selected(layout)
    chart.figure.update_layout(clickmode="event+select")
    chart.figure.update_traces(selected_marker_opacity=1, unselected_marker_opacity=1)
    if now.stack == stack and now.layer is not None and selection.chosen():
        line = {"color": CUT_ON_HEATMAP, "width": 2}
        chart.figure.add_vrect(now.layer - 0.5, now.layer + 0.5, line=line, fillcolor="rgba(0, 0, 0, 0)")
    return chart


def module_control(layout: Layout, key: str) -> None:
    """The module of the selected layer, under widget key `key`."""
    now = selection.selected(layout)
    st.session_state[key] = now.module
    st.segmented_control(
        "Module",
        [site.module for site in layout if (site.stack, site.layer) == (now.stack, now.layer)],
        key=key,
        required=True,
        wrap=True,
        format_func=lambda module: part_name(layout, now.stack, module).capitalize().replace("Mlp", "MLP"),
        on_change=selection.take(layout, key, "module"),
    )


def detail(key: str, scores: Saliency, plan: PruningPlan | None) -> None:
    """The selected unit with score, rank and fate, and the selected layer with its kept units."""
    now = selection.selected(scores.layout)
    with st.container(border=True, key=f"{key}.detail", gap="small"):
        if now.unit is not None:
            st.markdown(unit_words(scores, now.site, now.unit, plan))
        st.markdown(layer_words(scores.layout, now.stack, now.layer or 0, plan))
        page_link("unit", "Inspect this unit" if now.unit is not None else "Inspect its units")


def unit_words(scores: Saliency, site: Site, unit: int, plan: PruningPlan | None) -> str:
    """E.g. "**Neuron 345, layer 12**: score 0.0123, rank 30,211 of 46,080. The plan keeps it."."""
    kind = scores.layout[site].kind
    pool = sum(scores.layout[each].units for each in scores.layout.pool(kind))
    name = f"**{kind[0].upper()}{kind[1:]} {unit}, {place_name(scores.layout, site)}**"
    rank = f"rank {scores.ranks[site][unit] + 1:,} of {pool:,}"
    text = f"{name}: score {short(float(scores[site][unit]))}, {rank} (1 is removed first)."
    if plan is None:
        return text
    return f"{text} The plan {'**keeps**' if keeps(plan, site, unit) else '**removes**'} it."


def layer_words(layout: Layout, stack: str, layer: int, plan: PruningPlan | None) -> str:
    """E.g. "**Layer 12** keeps 2 of 3 KV groups and 1,344 of 1,536 neurons."."""
    sites = [site for site in layout if (site.stack, site.layer) == (stack, layer)]
    name = f"**Layer {layer}**" if len(layout.stacks) == 1 else f"**Layer {layer} of the {stack}**"
    if plan is None:
        return f"{name} has {' and '.join(count(layout[site].units, layout[site].kind) for site in sites)}."
    several = len({layout[site].kind for site in sites}) < len(sites)
    parts = [
        f"{len(plan.get(site, ())):,} of {count(layout[site].units, layout[site].kind)}"
        + (f" in {part_name(layout, stack, site.module)}" if several else "")
        for site in sites
    ]
    return f"{name} keeps {' and '.join(parts)}."


def place_name(layout: Layout, site: Site) -> str:
    """E.g. "layer 12", or with two stacks "layer 3, decoder MLP"."""
    part = part_name(layout, site.stack, site.module)
    return f"layer {site.layer}" if len(layout.stacks) == 1 else f"layer {site.layer}, {part}"


def keeps(plan: PruningPlan, site: Site, unit: int) -> bool:
    """Whether a plan keeps the unit."""
    return site in plan and unit in plan[site]
