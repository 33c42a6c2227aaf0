"""Figures of speed and of quality against bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nirvana.costs import PHASES, CostTables
from nirvana.evaluation.results import Measurement, Report
from nirvana.evaluation.speed_report import SpeedReport, Spread
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis, plus_minus

PANELS = (("prefill", "Reading the prompt"), ("decode", "Writing"))
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
WIDE = 8.0  # highest over lowest perplexity from which the axis is logarithmic


def predictions(report: SpeedReport, plan: PruningPlan | None, costs: CostTables | None) -> dict[str, float]:
    """Phase -> speed-up of the pruned model that measured costs predict, where they have the report's protocol."""
    found: dict[str, float] = {}
    if plan is None or costs is None:
        return found
    for phase in PHASES:
        table = costs.find(phase, report.batch, report.prompt)
        same = {"device": report.device, "threads": report.threads}
        if table is not None and same.items() <= table.protocol.items():
            found[phase] = table.predict(plan.layout, plan.widths).ratio
    return found


def speeds(report: SpeedReport, predicted: Mapping[str, float] = MappingProxyType({})) -> Chart:
    """Tokens a second of each model, with quartiles, and its ideal speed by operations.

    Args:
        predicted: of `predictions`, drawn beside the measured speed of the pruned model.
    """
    names = list(report.models)
    figure = make_subplots(cols=2, subplot_titles=[title for _, title in PANELS], horizontal_spacing=0.12)
    for column, (metric, _) in enumerate(PANELS, start=1):
        spreads: list[Spread] = [getattr(report.models[name], metric) for name in names]
        medians = np.array([spread.median for spread in spreads])
        promised = np.array([spreads[0].median * report.ideal(name, metric) for name in names])
        figure.add_trace(
            go.Bar(
                x=names,
                y=medians.astype(np.float32),
                error_y={
                    "array": np.array([spread.high - spread.median for spread in spreads], np.float32),
                    "arrayminus": np.array([spread.median - spread.low for spread in spreads], np.float32),
                    "thickness": 1.5,
                    "width": 5,
                    "color": theme.NEUTRAL,
                },
                marker={"color": [_colour(name) for name in names]},
                showlegend=False,
                hovertemplate="%{x}: %{y:,.4~g} tokens a second<extra></extra>",
            ),
            row=1,
            col=column,
        )
        figure.add_trace(
            go.Scatter(
                x=names[1:],
                y=promised[1:].astype(np.float32),
                mode="markers",
                name="ideal, by operations",
                marker={
                    "symbol": "line-ew-open",
                    "size": 26,
                    "color": theme.REMOVED,
                    "line": {"width": 3, "color": theme.REMOVED},
                },
                showlegend=column == 1 and len(names) > 1,
                hovertemplate="by its operations: %{y:,.4~g} tokens a second<extra></extra>",
            ),
            row=1,
            col=column,
        )
        if metric in predicted and "pruned" in report.models:
            figure.add_trace(
                go.Scatter(
                    x=["pruned"],
                    y=np.array([spreads[0].median * predicted[metric]], np.float32),
                    mode="markers",
                    name="predicted, by measured costs",
                    marker={"symbol": "diamond-open", "size": 13, "color": theme.NEUTRAL, "line": {"width": 3}},
                    showlegend=metric == next(iter(predicted)),
                    hovertemplate="by measured costs: %{y:,.4~g} tokens a second<extra></extra>",
                ),
                row=1,
                col=column,
            )
    figure.update_layout(height=340, margin={**MARGIN, "t": 40}, legend={**LEGEND, "y": -0.12, "yanchor": "top"})
    figure.update_yaxes(rangemode="tozero", zeroline=False)
    figure.update_yaxes(title="Tokens a second", col=1)
    return Chart(
        title="How fast is each model?",
        figure=figure,
        takeaway=_takeaway(report, predicted),
        table=speed_table(report, predicted),
        reading=(
            "Bars: medians, with quartiles. Lines: the first model's speed times the ratio of operations of matrix "
            "products, without memory traffic and other costs. "
            + ("Diamonds: its speed times the speed-up that measured costs predict. " if predicted else "")
            + report.protocol
        ),
    )


def speed_table(report: SpeedReport, predicted: Mapping[str, float] = MappingProxyType({})) -> pd.DataFrame:
    """One row a model: medians and quartiles, measured, ideal and predicted ratios to the first model, and bytes."""
    rows = []
    for name, speed in report.models.items():
        row: dict[str, object] = {"model": name}
        for metric, label in (("prefill", "prefill, tokens/s"), ("decode", "decode, tokens/s")):
            spread, ratio = getattr(speed, metric), report.ratio(name, metric)
            row |= {label: spread.median, f"{metric} quartiles": _range(spread)}
            row |= {f"{metric}, times the first": ratio.median, f"{metric}, by operations": report.ideal(name, metric)}
            if metric in predicted:
                row[f"{metric}, predicted"] = predicted[metric] if name == "pruned" else math.nan
        first = speed.first_token
        row |= {"first token, s": first.median, "first token quartiles": _range(first)}
        row |= {"file bytes": speed.file_bytes, "memory bytes": speed.memory_bytes}
        row |= {"memory": "peak, measured" if speed.memory_measured else "estimate: weights and KV cache"}
        row |= {"parameters": speed.parameters, "dtype": speed.dtype, "note": speed.note}
        rows.append(row)
    return pd.DataFrame(rows)


def quality_against_bytes(report: Report) -> Chart | None:
    """Perplexity over bytes of the weights, of models and their quantised copies; None without measurements."""
    table = sizes_table(report).astype({"bytes": float, "perplexity": float, "standard error": float})
    table = table[np.isfinite(table["perplexity"]) & (table["perplexity"] > 0)].reset_index(drop=True)
    if table.empty:
        return None
    schemes = list(dict.fromkeys(table["weights"]))
    figure = go.Figure()
    for subject in dict.fromkeys(table["model"]):
        part = table[table["model"] == subject].sort_values("bytes")
        figure.add_trace(
            go.Scatter(
                x=part["bytes"].to_numpy(np.float64) / 1e6,
                y=part["perplexity"].to_numpy(np.float32),
                error_y={
                    "array": (2 * part["standard error"].fillna(0)).to_numpy(np.float32),
                    "color": _colour(subject),
                    "thickness": 1.5,
                    "width": 4,
                },
                text=list(part["weights"]),
                mode="lines+markers+text",
                textposition="top center",
                name=subject,
                line={"color": theme.translucent(_colour(subject), 0.5), "width": 1.5, "dash": "dot"},
                marker={
                    "color": _colour(subject),
                    "size": 12,
                    "symbol": [SYMBOLS[schemes.index(weights) % len(SYMBOLS)] for weights in part["weights"]],
                },
                hovertemplate=f"{subject}, %{{text}}<br>%{{x:,.4~g}} MB<br>perplexity %{{y:,.4~g}}<extra></extra>",
            )
        )
    values = table["perplexity"].to_numpy(float)
    log = values.max() >= WIDE * values.min()
    figure.update_layout(height=360, margin={**MARGIN, "t": 24}, legend=LEGEND, showlegend=True)
    figure.update_xaxes(title="Weights, MB", rangemode="tozero", zeroline=False)
    figure.update_yaxes(title="Perplexity" + (" (log)" if log else ""), zeroline=False)
    if log:
        figure.update_yaxes(**log_axis(values))
    corpus = str(table["corpus"].iloc[0])
    return Chart(
        title=f"Which quality at which size on {corpus}?",
        figure=figure,
        takeaway=_trade(table),
        table=table,
        reading=(
            "Lower and further left is better. Bytes are those of the stored weights, with scales; embeddings, norms "
            f"and the output head are not quantised. Bars: two standard errors. {'Log' if log else 'Linear'} axis."
        ),
    )


def sizes_table(report: Report) -> pd.DataFrame:
    """One row a model and number format: bytes, perplexity, and protocol."""
    found: dict[str, dict[str, Measurement]] = {}
    for item in report.measurements:
        found.setdefault(item.subject, {}).setdefault(item.metric, item)
    rows = []
    for subject, items in found.items():
        if "perplexity" not in items or "bytes" not in items:
            continue
        model, _, scheme = subject.partition(" ")
        measured = items["perplexity"]
        rows.append(
            {
                "model": model,
                "weights": scheme or str(measured.protocol.get("dtype", "")),
                "bytes": items["bytes"].value,
                "perplexity": measured.value,
                "standard error": math.nan if measured.standard_error is None else measured.standard_error,
                **{name: measured.protocol.get(name) for name in ("corpus", "window", "tokens", "device", "note")},
            }
        )
    columns = ["model", "weights", "bytes", "perplexity", "standard error"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def _takeaway(report: SpeedReport, predicted: Mapping[str, float]) -> str:
    names = list(report.models)
    if len(names) < 2:
        speed = report.models[names[0]]
        return f"It reads {speed.prefill.median:,.4g} and generates {speed.decode.median:,.4g} tokens a second."
    name = "pruned" if "pruned" in names[1:] else names[1]
    words = []
    for metric, verb in (("prefill", "reads"), ("decode", "generates")):
        ratio = report.ratio(name, metric)
        doubt = ", quartiles include 1" if ratio.low <= 1 <= ratio.high else ""
        promised = f"ideal {report.ideal(name, metric):.2f}"
        if metric in predicted and name == "pruned":
            promised = f"predicted {predicted[metric]:.2f}, {promised}"
        words.append(f"{verb} {ratio.median:.2f} times as fast as {names[0]} ({promised}{doubt})")
    return f"The {name} model {' and '.join(words)}."


def _trade(table: pd.DataFrame) -> str:
    """The last model against the best quantised model of at most its size."""
    last = next((name for name in ("recovered", "pruned") if (table["model"] == name).any()), "")
    if not last:
        return ""
    own = table[table["model"] == last].sort_values("bytes", ascending=False).iloc[0]
    words = f"{last.capitalize()}, {_point(own)}"
    rivals = table[(table["model"] == "dense") & (table["bytes"] <= own["bytes"])]
    if rivals.empty:
        return f"{words}; no quantised dense model is as small."
    best = rivals.sort_values("perplexity").iloc[0]
    verdict = "better for fewer bytes" if best["perplexity"] < own["perplexity"] else "smaller, and worse"
    return f"{words}; dense as {best['weights']}, {_point(best)}: {verdict}."


def _point(row: pd.Series) -> str:
    return f"{row['bytes'] / 1e6:,.4g} MB and perplexity {plus_minus(row['perplexity'], row['standard error'])}"


def _range(spread: Spread) -> str:
    return f"{spread.low:,.4g} to {spread.high:,.4g}"


def _colour(name: str) -> str:
    """The colour of a model, paler for its quantised copies."""
    subject, _, scheme = name.partition(" ")
    colour = theme.SUBJECTS[subject].colour if subject in theme.SUBJECTS else theme.ATTENTION
    return theme.translucent(colour, 0.65) if scheme and subject in theme.SUBJECTS else colour
