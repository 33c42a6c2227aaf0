"""Figures of the kernel study on the Method page: change against pruned saliency, and over sparsity by criterion."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis, plain_ticks, short
from nirvana.reporting.kernel import BASELINE, PART_TITLES
from nirvana.runs.describe import percent
from nirvana.saliency.criteria import find_criterion
from nirvana.studies.kernel_rows import KernelStudy

UNITS = {"output_shift": "units of f"}  # of a change; of the others f per weight
SYMBOLS = ("circle", "diamond", "square", "x", "triangle-up", "cross", "star", "triangle-down")
LINEAR = 0.2  # deviation of an exponent from 1 up to which a change is called proportional


def change_against_saliency(study: KernelStudy, part: str) -> Chart:
    """|`part`| of the kernel's change over pruned saliency, one mark a plan and input, on log axes."""
    figure, rows, spans = go.Figure(), [], []
    for index, criterion in enumerate(study.criteria):
        eps, change, labels = [], [], []
        for row in study.rows:
            if row.point.criterion != criterion or row.shift is None:
                continue
            eps += list(row.shift.saliency)
            change += list(np.abs(getattr(row.shift, part)))
            labels += [percent(row.point.sparsity)] * len(row.shift.saliency)
        xs, ys = np.array(eps), np.array(change)
        good = (xs > 0) & (ys > 0)
        spans.append((xs[good], ys[good]))
        rows += [
            {"criterion": criterion, "sparsity": label, "pruned saliency": x, PART_TITLES[part]: y}
            for label, x, y in zip(labels, eps, change, strict=True)
        ]
        figure.add_trace(
            go.Scatter(
                x=xs[good].astype(np.float32),
                y=ys[good].astype(np.float32),
                text=np.array(labels)[good],
                mode="markers",
                name=find_criterion(criterion).title,
                marker={
                    "color": colour(index),
                    "symbol": SYMBOLS[index % len(SYMBOLS)],
                    "size": 8,
                    "opacity": 0.8,
                },
                hovertemplate="%{fullData.name}, %{text} removed<br>pruned saliency %{x:.3~g}<br>change %{y:.3~g}"
                "<extra></extra>",
            )
        )
    across, up = (np.concatenate([span[axis] for span in spans]) for axis in (0, 1))
    relation = study.relation(part)
    if len(across) and math.isfinite(relation.exponent):
        middle = float(np.exp(np.mean(np.log(up) - np.log(across))))
        ends = np.array([across.min(), across.max()])
        figure.add_trace(
            go.Scatter(
                x=ends,
                y=middle * ends,
                mode="lines",
                name="proportional",
                line={"color": theme.CUT, "dash": "dash", "width": 1.5},
                hoverinfo="skip",
            )
        )
    figure.update_layout(height=380, margin=MARGIN, legend=LEGEND, hovermode="closest")
    if len(across):
        figure.update_xaxes(**plain_ticks(log_axis(across)))
        figure.update_yaxes(**log_axis(up))
    figure.update_xaxes(title="Pruned saliency eps(x)")
    figure.update_yaxes(title="Change (size)")
    proportional = abs(relation.exponent - 1) <= LINEAR and relation.rank > 0.9
    verdict = "is proportional to the pruned saliency" if proportional else "does not follow the pruned saliency alone"
    name = PART_TITLES[part]
    largest = f"{relation.largest:,.0f}" if relation.largest >= 100 else short(relation.largest)
    return Chart(
        title=f"{name[0].upper()}{name[1:]} {verdict}",
        figure=figure,
        takeaway=f"Exponent {relation.exponent:.2f} (1 is proportional), rank correlation {relation.rank:.2f}, over "
        f"{relation.pairs} pairs of plan and input. Largest ratio to the saliency: {largest}.",
        table=pd.DataFrame(rows),
        reading=f"One mark is one plan at one held-out input; all are absolute values in "
        f"{UNITS.get(part, 'f per weight')}, on log axes. A bound by the saliency is a line of slope 1 above all "
        "marks.",
    )


def change_by_sparsity(study: KernelStudy, part: str) -> Chart:
    """|`part`| over the dense kernel by sparsity, one line a criterion: mean and standard error over the inputs.

    `part` is "shift", "remaining" or "lost".
    """
    figure, rows = go.Figure(), []
    for index, criterion in enumerate(study.criteria):
        found = []
        for sparsity in study.sparsities:
            try:
                found.append((study.achieved(criterion, sparsity), *study.relative(criterion, sparsity, part)))
            except KeyError:  # the point failed, or was not measured yet
                continue
            rows.append(
                {
                    "criterion": criterion,
                    "sparsity": sparsity,
                    "achieved": found[-1][0],
                    "change over dense kernel": found[-1][1],
                    "standard error": found[-1][2],
                }
            )
        values = np.array(found, np.float32).reshape(-1, 3)
        figure.add_trace(
            go.Scatter(
                x=values[:, 0],
                y=values[:, 1],
                error_y={"array": np.nan_to_num(values[:, 2]), "thickness": 1.5, "width": 4},
                mode="lines+markers",
                name=find_criterion(criterion).title,
                line={"color": colour(index), "width": 2},
                marker={"size": 9, "symbol": SYMBOLS[index % len(SYMBOLS)]},
                hovertemplate="%{fullData.name}<br>%{x:.1%} removed<br>%{y:.1%} of the dense kernel<extra></extra>",
            )
        )
    table = pd.DataFrame(rows)
    figure.update_layout(height=360, margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(title="Sparsity", tickformat=".0%", zeroline=False)
    positive = table["change over dense kernel"].to_numpy() if len(table) else np.array([])
    if (positive > 0).any():
        figure.update_yaxes(**_percent_log(positive))
    figure.update_yaxes(title="Change over the dense kernel (log)")
    return Chart(
        title=_ranking(table, part),
        figure=figure,
        takeaway="The allocation is the same for all criteria, without compensation. The significance of the "
        "differences is given below.",
        table=table,
        reading="Mean of the absolute change over the inputs; bars are one standard error.",
    )


def colour(index: int) -> str:
    """Colour of the criterion at a place of the study."""
    return theme.CATEGORICAL[index % len(theme.CATEGORICAL)]


def _percent_log(values: np.ndarray) -> dict[str, object]:
    axis = log_axis(values)
    ticks = np.asarray(axis["tickvals"], dtype=np.float64)
    return axis | {"ticktext": [f"{100 * tick:,.0f} %" if tick >= 1 else f"{100 * tick:.3g} %" for tick in ticks]}


def _ranking(table: pd.DataFrame, part: str) -> str:
    """The criterion with the smallest change at the middle sparsity, beside NIRVANA's or the largest."""
    if not len(table):
        return "No point is finished"
    sparsities = sorted(table["sparsity"].unique())
    middle = sparsities[len(sparsities) // 2]
    found = table[table["sparsity"] == middle].sort_values("change over dense kernel")
    shown = [
        (name, f"{find_criterion(name).title} ({change:,.0%})")
        for name, change in zip(found["criterion"], found["change over dense kernel"], strict=True)
    ]
    title = PART_TITLES[part]
    words = f"{title[0].upper()}{title[1:]} at {percent(middle)}: least with {shown[0][1]}"
    own = next((each for name, each in shown if name == BASELINE), None)
    if len(shown) < 2:
        return words
    return f"{words}, most with {shown[-1][1]}" if own in (None, shown[0][1]) else f"{words}, against {own}"
