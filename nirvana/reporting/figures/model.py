"""Figures of the Model page: the parts of a model, from its layout alone."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from nirvana.layout import Layout
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN, stacked_height
from nirvana.reporting.figures.chart import Chart, count
from nirvana.reporting.figures.names import part_colours, part_name, parts, unit_name
from nirvana.reporting.text import millions

GEOMETRY = {  # key of ModelPreview.geometry: label, meaning
    "layers": ("Layers", "blocks of attention and MLP, one after the other"),
    "decoder_layers": ("Decoder layers", "blocks with cross-attention to the encoder's output"),
    "hidden": ("Hidden size", "size of a token's hidden state"),
    "heads": ("Query heads per layer", "each has its own attention weights"),
    "kv_heads": ("KV groups per layer", "key and value heads; query heads share them"),
    "head_dim": ("Head size", "size of a head's queries, keys and values"),
    "intermediate": ("MLP neurons per layer", "the width of the MLP"),
    "vocabulary": ("Vocabulary", "number of tokens"),
    "positions": ("Context", "longest input in tokens"),
}


def parameters_by_part(layout: Layout) -> Chart:
    """One bar, the whole model, in parts; attention and MLP can be pruned."""
    table = part_table(layout)
    colours = part_colours(layout)
    figure = go.Figure()
    for part, parameters, share, prunable in table.itertuples(index=False):
        figure.add_trace(
            go.Bar(
                y=["parameters"],
                x=[parameters],
                name=part,
                orientation="h",
                marker={"color": colours.get(part, theme.NEUTRAL), "line": {"color": "white", "width": 1}},
                hovertemplate=f"{part}<br>{parameters:,} parameters ({share:.1%})<br>"
                f"{'can be pruned' if prunable else 'never pruned'}<extra></extra>",
            )
        )
    figure.update_layout(
        height=stacked_height(len(figure.data)),
        margin=MARGIN,
        barmode="stack",
        legend=LEGEND | {"traceorder": "normal"},
        bargap=0.1,
    )
    figure.update_yaxes(visible=False)
    figure.update_xaxes(title="Parameters", showgrid=False, range=[0, layout.parameters])
    largest = table.iloc[0]
    sizes = f"{millions(layout.prunable)} of {millions(layout.parameters)}"
    return Chart(
        title="Where are the parameters?",
        figure=figure,
        takeaway=f"Most are in the {largest['part']}: {largest['share']:.0%}. Attention and MLP, which can be pruned, "
        f"hold {sizes} ({layout.prunable / layout.parameters:.0%}).",
        table=table,
        reading=f"The parts sum to {layout.parameters:,}.",
    )


def part_table(layout: Layout) -> pd.DataFrame:
    """Parameters of each part, the largest first: part, parameters, share, whether it can be pruned."""
    found: dict[str, int] = {}
    for site, place in layout.items():
        name = part_name(layout, site.stack, site.module)
        found[name] = found.get(name, 0) + place.units * (place.cost + place.biases) + place.output_bias
    rows = [(part, size, True) for part, size in found.items()]
    rows += [(part, size, False) for part, size in layout.other.items() if size]
    table = pd.DataFrame(rows, columns=["part", "parameters", "prunable"])
    table.insert(2, "share", table["parameters"] / layout.parameters)
    return table.sort_values("parameters", ascending=False, ignore_index=True)


def unit_table(layout: Layout) -> pd.DataFrame:
    """Prunable units: one row per kind of unit and stack, with count and parameters per unit."""
    rows = []
    for stack, module in parts(layout):
        places = [place for site, place in layout.items() if (site.stack, site.module) == (stack, module)]
        widths, costs = {place.units for place in places}, {place.cost for place in places}
        size, unit = sum(place.parameters for place in places), unit_name(layout, stack, module)
        rows.append((unit, _range(widths), sum(place.units for place in places), _range(costs), size))
    table = pd.DataFrame(rows, columns=["unit", "per layer", "in all", "weights in one", "parameters"])
    table["share of the model"] = table["parameters"] / layout.parameters
    return table


def geometry_table(geometry: Mapping[str, int]) -> pd.DataFrame:
    """The sizes of the architecture and their meaning."""
    labels = {key: (key.replace("_", " "), "") for key in geometry} | GEOMETRY
    if "decoder_layers" in geometry:
        labels["layers"] = ("Encoder layers", GEOMETRY["layers"][1])
    rows = [(labels[key][0], f"{value:,}", labels[key][1]) for key, value in geometry.items()]
    return pd.DataFrame(rows, columns=["size", "value", "meaning"])


def prunable_sentence(layout: Layout) -> str:
    """E.g. "90 KV groups and 46,080 neurons are prunable."."""
    parts = [
        count(sum(layout[site].units for site in layout.pool(kind)), kind)
        for kind in dict.fromkeys(place.kind for place in layout.values())
    ]
    return f"{' and '.join(parts)} are prunable."


def _range(values: set[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
