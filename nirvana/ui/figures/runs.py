"""Figures and tables of the Runs page: what runs asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.evaluation.results import Measurement, Report
from nirvana.runs.recipe import Recipe
from nirvana.ui.figures import theme
from nirvana.ui.figures.allocation import LEGEND, MARGIN
from nirvana.ui.figures.chart import Chart
from nirvana.ui.text import megabytes

PROTOCOL = ("corpus", "window", "tokens", "samples", "length", "device", "dtype", "note")


def recipe_differences(left: Recipe, right: Recipe) -> pd.DataFrame:
    """Choices in which two recipes differ: choice, left, right."""
    first, second = left.to_json(), right.to_json()
    rows = [
        (f"{section}: {name.replace('_', ' ')}", _shown(value), _shown(second[section][name]))
        for section, values in first.items()
        for name, value in values.items()
        if value != second[section][name]
    ]
    return pd.DataFrame(rows, columns=["choice", "left", "right"])


def aligned_measurements(left: Report | None, right: Report | None) -> pd.DataFrame:
    """Measurements of two reports in one table; a row is a metric, subject and corpus, aligned where both have it."""
    columns = [{_identity(item): item for item in report.measurements} if report else {} for report in (left, right)]
    rows = []
    for identity in dict.fromkeys([*columns[0], *columns[1]]):
        found = [column.get(identity) for column in columns]
        metric, subject, corpus = identity
        one, other = (item.value if item else None for item in found)
        change = other / one - 1 if one and other is not None else None
        rows.append((metric, corpus, subject, _value(found[0]), _value(found[1]), change, _protocol(found)))
    names = ["metric", "corpus", "model", "left", "right", "right over left", "measured"]
    return pd.DataFrame(rows, columns=names)


def perplexity_cost(reports: Mapping[str, Report]) -> Chart | None:
    """Pruned over dense perplexity of each run, by corpus; None where no run has both."""
    rows = []
    for run, report in reports.items():
        for item in report.measurements:
            if item.metric != "perplexity" or item.subject != "pruned":
                continue
            dense = report.find("perplexity", "dense", corpus=item.protocol.get("corpus"))
            if dense is not None and dense.value > 0:
                error = np.hypot((item.standard_error or 0) / item.value, (dense.standard_error or 0) / dense.value)
                ratio = item.value / dense.value
                rows.append((run, str(item.protocol.get("corpus", "")), dense.value, item.value, ratio, ratio * error))
    names = ["run", "corpus", "dense perplexity", "pruned perplexity", "ratio", "standard error"]
    table = pd.DataFrame(rows, columns=names)
    if table.empty:
        return None
    figure = go.Figure()
    for index, (name, part) in enumerate(table.groupby("run", sort=False)):
        figure.add_trace(
            go.Bar(
                x=part["corpus"].to_numpy(),
                y=part["ratio"].to_numpy(np.float32),
                error_y={
                    "type": "data",
                    "array": part["standard error"].to_numpy(np.float32),
                    "thickness": 1.5,
                    "color": theme.CUT,
                },
                name=str(name),
                marker={"color": theme.CATEGORICAL[index % len(theme.CATEGORICAL)]},
                customdata=part[["dense perplexity", "pruned perplexity"]].to_numpy(np.float32),
                hovertemplate="%{x}: %{customdata[0]:,.4~g} to %{customdata[1]:,.4~g}, %{y:.3~g} times"
                "<extra>%{fullData.name}</extra>",
            )
        )
    figure.add_hline(y=1, line={"color": theme.CUT, "dash": "dash", "width": 1.5})
    figure.update_layout(height=320, margin=MARGIN, legend=LEGEND, barmode="group", bargap=0.35)
    figure.update_xaxes(title="", showgrid=False)
    figure.update_yaxes(title="Pruned over dense perplexity", rangemode="tozero", zeroline=False)
    means = table.groupby("run", sort=False)["ratio"].mean()
    best = str(means.idxmin())
    takeaway = f"{best} costs least: {means.min():.3g} times the dense perplexity"
    takeaway += ", averaged over corpora." if table["corpus"].nunique() > 1 else "."
    return Chart(
        title="Which run costs the model less?",
        figure=figure,
        takeaway=takeaway,
        table=table,
        reading="1, the dashed line, is the dense model; lower is better. Whiskers: one standard error.",
    )


def history_row(report: Report | None) -> dict[str, Any]:
    """The numbers of a report that a list of runs shows: "perplexity" as "dense to pruned", and "KL"."""
    if report is None:
        return {"perplexity": "", "KL": None}
    pruned, divergence = report.find("perplexity", "pruned"), report.find("KL divergence", "pruned")
    dense = report.find("perplexity", "dense", corpus=pruned.protocol.get("corpus")) if pruned else None
    shown = f"{dense.value:,.4g} → {pruned.value:,.4g}" if pruned and dense else ""
    return {"perplexity": shown, "KL": divergence.value if divergence else None}


def _identity(item: Measurement) -> tuple[str, str, str]:
    return item.metric, item.subject, str(item.protocol.get("corpus", ""))


def _value(item: Measurement | None) -> str:
    if item is None:
        return ""
    if item.metric == "bytes":
        return megabytes(item.value)
    number = f"{item.value:,.0f}" if item.metric == "parameters" else f"{item.value:,.5g}"
    return number if item.standard_error is None else f"{number} ± {item.standard_error:.2g}"


def _protocol(items: Sequence[Measurement | None]) -> str:
    """How it was measured, once where both agree."""
    texts = []
    for item in items:
        if item is not None:
            parts = [f"{name} {item.protocol[name]}" for name in PROTOCOL if item.protocol.get(name) not in (None, "")]
            texts.append(", ".join([*parts, *([f"n {item.n}"] if item.n else [])]))
    return " | ".join(dict.fromkeys(texts))


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
