"""Drawings of units on the Method page: rows and columns of a unit, and heads of MHA, GQA and MQA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.layout import KV_GROUP, NEURON, Layout
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, count

SHOWN = 16  # heads of a drawing
THIN = 0.012  # smallest drawn side of a unit's part, over the widest matrix


class Described(Protocol):
    """A model card or the preview of a model."""

    @property
    def family(self) -> str: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def geometry(self) -> Mapping[str, int]: ...


class Part(NamedTuple):
    """A weight matrix (rows, columns) and the range of rows, or with `columns_of` of columns, of one unit."""

    name: str
    rows: int
    columns: int
    first: int
    last: int
    of_columns: bool

    @property
    def weights(self) -> int:
        """Weights of the unit in this matrix."""
        return (self.last - self.first) * (self.rows if self.of_columns else self.columns)


class Names(NamedTuple):
    """Names of a layer's matrices: query, key, value and output; inputs of a gated MLP and of one without gate."""

    attention: tuple[str, str, str, str]
    gated: tuple[str, str]
    plain: tuple[str, ...]
    down: str


PROJECTIONS = Names(("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj"), ("up_proj",), "down_proj")
T5 = Names(("q", "k", "v", "o"), ("wi_0", "wi_1"), ("wi",), "wo")
NAMES = {"T5": T5, "mT5": T5}  # by family; the others have PROJECTIONS


def unit_parts(card: Described, kind: str, unit: int) -> list[Part]:
    """The matrices of a layer that hold a unit.

    Args:
        card: of the model; its geometry has hidden, heads, kv_heads, head_dim, intermediate.
        kind: "KV group" or "neuron".
        unit: its number in the layer, from 0.
    """
    geometry, names = card.geometry, NAMES.get(card.family, PROJECTIONS)
    hidden = geometry["hidden"]
    if kind != KV_GROUP:
        wide = geometry["intermediate"]
        gated = card.layout[card.layout.pool(NEURON)[0]].cost == 3 * hidden
        inputs = names.gated if gated else names.plain
        found = [Part(name, wide, hidden, unit, unit + 1, False) for name in inputs]
        return [*found, Part(names.down, hidden, wide, unit, unit + 1, True)]
    size, kv, heads = geometry["head_dim"], geometry["kv_heads"], geometry["heads"]
    group = heads // kv * size
    return [
        Part(names.attention[0], heads * size, hidden, unit * group, (unit + 1) * group, False),
        Part(names.attention[1], kv * size, hidden, unit * size, (unit + 1) * size, False),
        Part(names.attention[2], kv * size, hidden, unit * size, (unit + 1) * size, False),
        Part(names.attention[3], hidden, heads * size, unit * group, (unit + 1) * group, True),
    ]


def unit_in_matrices(card: Described, kind: str, unit: int, scored: str = "") -> Chart:
    """The rows and columns of one unit in its layer's matrices, drawn to scale.

    `scored` is a sentence about its score, for the answer.
    """
    parts = unit_parts(card, kind, unit)
    colour = theme.ATTENTION if kind == KV_GROUP else theme.MLP
    widest = max(max(part.rows, part.columns) for part in parts)
    figure, left = go.Figure(), 0.0
    for part in parts:
        right = left + part.columns
        _box(figure, left, right, -part.rows, 0, theme.translucent(theme.NEUTRAL, 0.25), theme.NEUTRAL)
        thin = THIN * widest
        middle, half = (part.first + part.last) / 2, max(part.last - part.first, thin) / 2
        name = f"{part.name}: {part.weights:,} weights of the unit"
        across, up = (left, right), (-middle - half, -middle + half)
        if part.of_columns:
            across, up = (left + middle - half, left + middle + half), (-float(part.rows), 0.0)
        _box(figure, *across, *up, colour, colour, name)
        figure.add_annotation(
            x=(left + right) / 2,
            y=0,
            text=f"{part.name}<br>{part.rows:,} × {part.columns:,}",
            showarrow=False,
            yanchor="bottom",
            yshift=4,
        )
        left = right + 0.12 * widest
    figure.update_layout(height=330, margin=MARGIN, showlegend=False, plot_bgcolor="rgba(0, 0, 0, 0)")
    figure.update_xaxes(visible=False, range=[-0.02 * widest, left])
    tallest = max(part.rows for part in parts)
    figure.update_yaxes(visible=False, range=[-1.03 * tallest, 0.3 * tallest])
    total = sum(part.weights for part in parts)
    return Chart(
        title=f"{kind[0].upper()}{kind[1:]} {unit} is {total:,} weights, which work only together",
        figure=figure,
        takeaway=scored
        or "Without its rows the columns are multiplied by zero, and without its columns nothing "
        "reads the rows: they are removed together.",
        table=pd.DataFrame(
            [
                {
                    "matrix": part.name,
                    "rows": part.rows,
                    "columns": part.columns,
                    "of the unit": "columns" if part.of_columns else "rows",
                    "from": part.first,
                    "to": part.last - 1,
                    "weights": part.weights,
                }
                for part in parts
            ]
        ),
        reading="Matrices of one layer, to scale; "
        + ("a single row or column is drawn thicker." if kind != KV_GROUP else "rows are outputs, columns inputs."),
    )


def heads_drawn(geometry: Mapping[str, int], model: str) -> Chart:
    """Query and KV heads of one attention block as MHA, as the model has them, and as MQA; one group in colour."""
    heads, kv = geometry["heads"], geometry["kv_heads"]
    shown = heads if heads <= SHOWN else SHOWN if heads % SHOWN == 0 else heads // kv * max(1, SHOWN * kv // heads)
    kinds = {"MHA": shown, "GQA": _shared(shown, heads // kv), "MQA": 1}
    own = "MHA" if kv == heads else "MQA" if kv == 1 else "GQA"
    figure = go.Figure()
    for row, (name, groups) in enumerate(kinds.items()):
        _heads(figure, 2 - row, shown, groups, f"<b>{name}</b>: " if name != own else f"<b>{name}, this model</b>: ")
    for symbol, label in (("circle", "query head"), ("square", "KV head")):
        figure.add_trace(
            go.Scatter(
                x=[None],
                y=[None],
                mode="markers",
                name=label,
                marker={"symbol": symbol, "size": 12, "color": theme.NEUTRAL},
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[None], y=[None], mode="markers", name="one KV group", marker={"size": 12, "color": theme.ATTENTION}
        )
    )
    figure.update_layout(height=390, margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(visible=False, range=[-0.8, shown - 0.2])
    figure.update_yaxes(visible=False, range=[-0.2, 2.75])
    rows = []
    for name, groups in {"MHA": heads, "GQA": _shared(heads, heads // kv), "MQA": 1}.items():
        per_group = heads // groups
        rows.append(
            {
                "attention": name + (", this model" if name == own else ""),
                "query heads": heads,
                "KV heads": groups,
                "query heads in a group": per_group,
                "weights in a group": 2 * geometry["head_dim"] * (per_group + 1) * geometry["hidden"],
                "smallest share of a layer": 1 / groups,
            }
        )
    return Chart(
        title=f"{model}: {count(kv, 'KV group')} a layer, so the smallest step is {1 / kv:.0%} of a layer's attention",
        figure=figure,
        takeaway=f"Each KV head serves {count(heads // kv, 'query head')}; they can only be removed together.",
        table=pd.DataFrame(rows),
        reading=(f"{shown} of {heads} query heads are drawn. " if shown != heads else "")
        + ("GQA is drawn with pairs, as an example." if own != "GQA" else ""),
    )


def _shared(heads: int, per_group: int) -> int:
    """KV heads of the drawing of GQA: the model's own, or for MHA and MQA half or a third of the heads."""
    if 1 < per_group < heads:
        return max(1, heads // per_group)
    return next((heads // size for size in (2, 3) if heads % size == 0 and heads > size), 1)


def _heads(figure: go.Figure, row: int, heads: int, groups: int, name: str) -> None:
    per_group = heads // groups
    centres = [(group + 0.5) * per_group - 0.5 for group in range(groups)]
    x: list[float | None] = []
    y: list[float | None] = []
    first: list[float | None] = []
    for head in range(heads):
        part = (head, row + 0.4, centres[head // per_group], row)
        target = first if head < per_group else x
        target += [part[0], part[2], None]
        if target is x:
            y += [part[1], part[3], None]
    for xs, ys, colour in (
        (x, y, theme.translucent(theme.NEUTRAL, 0.7)),
        (first, [row + 0.4, row, None] * per_group, theme.ATTENTION),
    ):
        figure.add_trace(
            go.Scatter(x=xs, y=ys, mode="lines", line={"color": colour, "width": 2}, showlegend=False, hoverinfo="skip")
        )
    for places, height, symbol, chosen in (
        (list(range(heads)), row + 0.4, "circle", per_group),
        (centres, row, "square", 1),
    ):
        colours = [theme.ATTENTION if place < chosen else theme.NEUTRAL for place in range(len(places))]
        figure.add_trace(
            go.Scatter(
                x=np.array(places, np.float32),
                y=np.full(len(places), height, np.float32),
                mode="markers",
                marker={"symbol": symbol, "size": 15, "color": colours},
                showlegend=False,
                hoverinfo="skip",
            )
        )
    figure.add_annotation(
        x=-0.6,
        y=row + 0.64,
        text=f"{name}{count(groups, 'KV head')}, {per_group} query head{'' if per_group == 1 else 's'} each",
        showarrow=False,
        xanchor="left",
    )


def _box(
    figure: go.Figure, left: float, right: float, low: float, high: float, fill: str, line: str, name: str = ""
) -> None:
    figure.add_trace(
        go.Scatter(
            x=[left, right, right, left, left],
            y=[low, low, high, high, low],
            mode="lines",
            fill="toself",
            fillcolor=fill,
            line={"color": line, "width": 1},
            hoveron="fills",
            hoverinfo="text" if name else "skip",
            text=name,
        )
    )
