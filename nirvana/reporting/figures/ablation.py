"""Figures of single removed units on the Method page: prediction against measurement, and where first order fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.evaluation.ablation_results import Ablations, Correlation
from nirvana.layout import KV_GROUP, Site
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, layer_axis, log_axis

COLOURS = {KV_GROUP: theme.ATTENTION}  # neurons: theme.MLP
GOOD = 0.9  # rank correlation from which a prediction is called close


class Pair(NamedTuple):
    """A prediction and a measurement of the same units, as absolute values on log axes.

    Attributes:
        label: on the control.
        x, y: attributes of an `Ablation`.
        x_title, y_title: of the axes.
        found: correlations of one kind of unit.
    """

    label: str
    x: str
    y: str
    x_title: str
    y_title: str
    found: Callable[[Ablations, str], Correlation]


PAIRS = {
    "first": Pair(
        "First order, change of f",
        "first_order",
        "change",
        "Predicted change of f (size)",
        "True change of f (size)",
        Ablations.first_order_and_change,
    ),
    "score": Pair("Score, KL", "score", "kl", "Score", "KL without the unit, nats", Ablations.score_and_kl),
    "size": Pair(
        "First order, KL",
        "first_order",
        "kl",
        "Predicted change of f (size)",
        "KL without the unit, nats",
        Ablations.first_order_size_and_kl,
    ),
}


def predicted_against_true(found: Ablations, name: str) -> Chart:
    """One mark a removed unit, on log axes. `name` is one of PAIRS. Units with a zero are left out."""
    pair = PAIRS[name]
    table = ablation_table(found)
    across, up = np.abs(table[pair.x].to_numpy()), np.abs(table[pair.y].to_numpy())
    drawn = (across > 0) & (up > 0)
    wrong = np.zeros(len(table), bool)
    if name == "first":
        wrong = table["first_order"].to_numpy() * table["change"].to_numpy() < 0
    figure = go.Figure()
    for kind in found.kinds:
        for off in (False, True):
            mine = drawn & (table["kind"] == kind).to_numpy() & (wrong == off)
            if not mine.any():
                continue
            rows = table[mine]
            figure.add_trace(
                go.Scatter(
                    x=across[mine].astype(np.float32),
                    y=up[mine].astype(np.float32),
                    mode="markers",
                    name=f"{kind}s" + (", wrong sign" if off else ""),
                    marker={
                        "color": COLOURS.get(kind, theme.MLP),
                        "size": 9 if off else 8,
                        "symbol": "x-thin-open" if off else "circle",
                        "opacity": 0.8,
                        "line": {"width": 2 if off else 0},
                    },
                    customdata=rows[["layer", "unit", "first_order", "change", "kl"]].to_numpy(np.float32),
                    hovertemplate=f"layer %{{customdata[0]:.0f}}, {kind} %{{customdata[1]:.0f}}"
                    "<br>predicted %{customdata[2]:.3~g}, true %{customdata[3]:.3~g}<br>KL %{customdata[4]:.3~g} nats"
                    "<extra></extra>",
                )
            )
    if drawn.any() and name == "first":
        ends = np.array([min(across[drawn].min(), up[drawn].min()), max(across[drawn].max(), up[drawn].max())])
        figure.add_trace(
            go.Scatter(
                x=ends,
                y=ends,
                mode="lines",
                name="exact",
                line={"color": theme.CUT, "dash": "dash", "width": 1.5},
                hoverinfo="skip",
            )
        )
    figure.update_layout(height=380, margin=MARGIN, legend=LEGEND, hovermode="closest")
    if drawn.any():
        figure.update_xaxes(**log_axis(across[drawn]))
        figure.update_yaxes(**log_axis(up[drawn]))
    figure.update_xaxes(title=pair.x_title)
    figure.update_yaxes(title=pair.y_title)
    parts = [(kind, pair.found(found, kind)) for kind in found.kinds]
    return Chart(
        title=_claim(name, parts),
        figure=figure,
        takeaway="Rank correlation: "
        + " and ".join(f"{each.spearman:.2f} for {each.n} {kind}s" for kind, each in parts)
        # of values for signed changes, else of logarithms
        + "; Pearson's "
        + " and ".join(f"{_pearson(name, each):.2f}" for _, each in parts)
        + ("." if name == "first" else " of the logarithms."),
        table=table,
        reading="Each unit is removed alone, all others stay. Both axes are logarithmic"
        + ("; crosses are units whose true change has the other sign." if name == "first" else "."),
    )


def missed_by_layer(found: Ablations) -> Chart | None:
    """Share of the true change of f that first order misses, over layers; None where nothing changes."""
    errors = found.errors()
    if not errors:
        return None
    kinds = {item.site: item.kind for item in found.items}
    table = pd.DataFrame(
        [{"module": site.key, "layer": site.layer, "kind": kinds[site], "missed": errors[site]} for site in errors]
    )
    figure = go.Figure()
    stacks = list(dict.fromkeys(site.stack for site in errors))
    for (stack, module), sites in _by_module(list(errors)).items():
        kind = kinds[sites[0]]
        figure.add_trace(
            go.Scatter(
                x=np.array([site.layer for site in sites], np.int32),
                y=np.array([errors[site] for site in sites], np.float32),
                mode="lines+markers",
                name=f"{kind}s" if len(stacks) == 1 else f"{stack} {module.replace('_', '-')}",
                line={"color": COLOURS.get(kind, theme.MLP), "width": 2},
                hovertemplate="layer %{x}<br>%{y:.0%} missed<extra>%{fullData.name}</extra>",
            )
        )
    figure.add_hline(y=1, line={"color": theme.CUT, "width": 1, "dash": "dash"})
    figure.update_layout(height=300, margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(**layer_axis(sorted(table["layer"].unique())))
    figure.update_yaxes(title="Missed", tickformat=".0%", rangemode="tozero", zeroline=False)
    worst = table.nlargest(1, "missed").iloc[0]
    means = {str(kind): float(part["missed"].median()) for kind, part in table.groupby("kind", sort=False)}
    return Chart(
        title=f"First order fails most for {worst['kind']}s of layer {worst['layer']}",
        figure=figure,
        takeaway="In the middle of the layers it misses "
        + " and ".join(f"{value:.0%} of the change by {kind}s" for kind, value in means.items())
        + ".",
        table=table,
        reading="The sum of |true change - first order| over that of |true change|, of the removed units of a module. "
        "At the dashed line, 100 %, predicting no change at all would be as good.",
    )


def ablation_table(found: Ablations) -> pd.DataFrame:
    """One row a removed unit."""
    return pd.DataFrame(
        [
            {"stack": item.site.stack, "layer": item.site.layer, "module": item.site.module, **item._asdict()}
            for item in found.items
        ]
    ).drop(columns="site")


def _claim(name: str, parts: list[tuple[str, Correlation]]) -> str:
    what = {
        "first": "First order predicts the change of f",
        "score": "The score predicts KL",
        "size": "First order predicts KL",
    }[name]
    close = [kind for kind, each in parts if each.spearman >= GOOD]
    rough = [kind for kind, each in parts if not math.isnan(each.spearman) and each.spearman < GOOD]
    if close and rough:
        return f"{what} closely for {close[0]}s, roughly for {rough[0]}s"
    if close:
        return f"{what} closely"
    best = max((each.spearman for _, each in parts if not math.isnan(each.spearman)), default=math.nan)
    return f"{what} roughly" if best >= 0.3 else f"{what} hardly at all"


def _pearson(name: str, found: Correlation) -> float:
    return found.pearson if name == "first" else found.pearson_log


def _by_module(sites: list[Site]) -> dict[tuple[str, str], list[Site]]:
    found: dict[tuple[str, str], list[Site]] = {}
    for site in sites:
        found.setdefault((site.stack, site.module), []).append(site)
    return found
