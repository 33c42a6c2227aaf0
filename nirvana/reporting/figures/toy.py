"""Figures of the two-weight network of the Method page: its kernel under SignGD, and the removal of a weight."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart
from nirvana.reporting.toy import Toy, output

RANGE = (3.5, 2.5)  # of w1 and w2, both ways: the sliders end at 3 and 2
GRID = 71
INK = "#111111"  # over the contours, which have the same colours in light and dark
COLOURS = {1: theme.ATTENTION, 2: theme.MLP}


def kernel_map(toy: Toy, size: float) -> Chart:
    """Contours of f over both weights, its gradient, and a step of sign ascent of `size`."""
    across, up = (np.linspace(-end, end, GRID) for end in RANGE)
    values = np.asarray(output(across[None, :], up[:, None], toy.x), np.float32)
    end = float(np.abs(values).max()) or 1.0
    figure = go.Figure(
        go.Contour(
            x=across.astype(np.float32),
            y=up.astype(np.float32),
            z=values,
            zmin=-end,
            zmax=end,
            colorscale=theme.DIVERGING,
            ncontours=15,
            line={"width": 0.5},
            colorbar={"thickness": 10, "outlinewidth": 0, "title": {"text": "f", "side": "right"}},
            hovertemplate="w1 %{x:.2f}, w2 %{y:.2f}<br>f %{z:.2f}<extra></extra>",
        )
    )
    after = toy.step(size)
    first, second = toy.gradient
    length = float(np.hypot(first, second))
    scale = size * np.sqrt(2) / length if length else 0.0  # as long as the step, to compare directions
    _arrow(figure, toy, (toy.w1 + scale * first, toy.w2 + scale * second), "gradient", "dot")
    _arrow(figure, toy, (after.w1, after.w2), "sign step", "solid")
    figure.add_trace(
        go.Scatter(
            x=[toy.w1],
            y=[toy.w2],
            mode="markers",
            marker={"size": 13, "color": INK, "line": {"color": "white", "width": 2}},
            hovertemplate=f"f {toy.output:.3f}, kernel {toy.kernel:.3f}<extra>weights</extra>",
        )
    )
    figure.update_layout(height=380, margin=MARGIN, showlegend=False)
    figure.update_xaxes(title="w1", range=[-RANGE[0], RANGE[0]], zeroline=False, showgrid=False)
    figure.update_yaxes(title="w2", range=[-RANGE[1], RANGE[1]], zeroline=False, showgrid=False)
    moved = after.output - toy.output
    return Chart(
        title=f"One sign step raises f by {moved:.2f}; step size times kernel is {size * toy.kernel:.2f}",
        figure=figure,
        takeaway=f"The kernel at this input is |{first:.2f}| + |{second:.2f}| = {toy.kernel:.2f}.",
        table=pd.DataFrame(
            {
                "weight": ["w1", "w2"],
                "value": [toy.w1, toy.w2],
                "df/dw": [first, second],
                "sign": [np.sign(first), np.sign(second)],
                "after the step": [after.w1, after.w2],
            }
        ),
        reading="Colour: f. The dotted arrow is the gradient's direction, drawn as long as the step.",
    )


def removal(toy: Toy) -> Chart:
    """f while either weight shrinks to zero, with the straight lines that first order predicts."""
    shares = np.linspace(0, 1, 101)
    figure, rows = go.Figure(), []
    for weight, colour in COLOURS.items():
        left = 1 - shares
        moved = {f"w{weight}": getattr(toy, f"w{weight}") * left}
        true = np.asarray(output(moved.get("w1", toy.w1), moved.get("w2", toy.w2), toy.x), np.float32)
        true = np.broadcast_to(true, shares.shape)
        predicted = toy.output + toy.first_order(weight) * shares
        for name, values, line in (
            (f"w{weight} shrinks", true, {"color": colour, "width": 3}),
            (f"first order, w{weight}", predicted, {"color": colour, "width": 2, "dash": "dot"}),
        ):
            figure.add_trace(
                go.Scatter(
                    x=shares.astype(np.float32),
                    y=np.asarray(values, np.float32),
                    mode="lines",
                    name=name,
                    line=line,
                    hovertemplate="%{x:.0%} removed<br>f %{y:.3f}<extra>%{fullData.name}</extra>",
                )
            )
        figure.add_trace(
            go.Scatter(
                x=[1],
                y=[toy.output + toy.first_order(weight)],
                mode="markers",
                marker={"color": colour, "size": 11, "symbol": "circle-open", "line": {"width": 2}},
                showlegend=False,
                hovertemplate=f"first order: f changes by {toy.first_order(weight):.3f}<extra></extra>",
            )
        )
        rows.append(
            {
                "removed": f"w{weight}",
                "df/dw": toy.gradient[weight - 1],
                "score |df/dw w|": toy.saliency[weight - 1],
                "first-order change of f": toy.first_order(weight),
                "true change of f": toy.change(weight),
            }
        )
    table = pd.DataFrame(rows)
    figure.update_layout(height=350, margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(title="Share of the weight removed", tickformat=".0%", range=[0, 1.03], zeroline=False)
    figure.update_yaxes(title="f", zeroline=True, zerolinecolor=theme.NEUTRAL)
    return Chart(
        title=_verdict(toy),
        figure=figure,
        takeaway=_scores(toy),
        table=table,
        reading="Solid: the network's output. Dotted: the tangent at the full weight, which is all that the gradient "
        "knows.",
    )


def _verdict(toy: Toy) -> str:
    predicted, true = toy.first_order(1), toy.change(1)
    both = f"Removing w1 changes f by {true:.2f}; first order predicts {predicted:.2f}"
    if abs(true - predicted) <= 0.1 * abs(true) or abs(true) < 0.005:
        return f"{both}: accurate here"
    if abs(predicted) < 0.5 * abs(true):
        return f"{both}: tanh is saturated, and the tangent flat"
    return both


def _scores(toy: Toy) -> str:
    first, second = toy.saliency
    whole = f"f is linear in w2, so its prediction is exact. Scores: w1 {first:.2f}, w2 {second:.2f}"
    return (
        f"{whole}. The neuron's score is their sum, {first + second:.2f}; without the neuron f changes by "
        f"{-toy.output:.2f}."
    )


def _arrow(figure: go.Figure, toy: Toy, to: tuple[float, float], name: str, dash: str) -> None:
    """An arrow from the weights, with its name at its end."""
    figure.add_trace(
        go.Scatter(
            x=[toy.w1, to[0]],
            y=[toy.w2, to[1]],
            mode="lines+markers",
            line={"color": INK, "width": 3, "dash": dash},
            marker={"size": [0, 14], "symbol": "arrow", "angleref": "previous", "color": INK},
            hoverinfo="skip",
        )
    )
    left = to[0] < toy.w1
    figure.add_annotation(
        x=to[0],
        y=to[1],
        text=name,
        showarrow=False,
        xanchor="right" if left else "left",
        xshift=-8 if left else 8,
        yshift=12 if dash == "dot" else -12,
        font={"color": INK},
        bgcolor="rgba(255, 255, 255, 0.8)",
    )
