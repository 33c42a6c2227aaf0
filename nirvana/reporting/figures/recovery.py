"""Figures of the Recover page: loss while the pruned model trains, and held-out text at the checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.recovery.history import Check, RecoveryHistory
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, count, log_axis, short
from nirvana.reporting.figures.names import text_label
from nirvana.runs.describe import short_text

HEIGHT = 270
COLOURS = (theme.ATTENTION, theme.CATEGORICAL[1], *theme.CATEGORICAL[2:])  # of the held-out texts
POINTS = 300  # most points of a loss curve; with more steps each is a mean over neighbours
SHARE = 0.1  # of the steps, whose mean loss is compared with that of as many before
FEWEST = 20  # steps for that
WIDE = 8.0  # highest over lowest value from which an axis is logarithmic


def perplexity_by_step(history: RecoveryHistory) -> Chart | None:
    """Held-out perplexity over the dense model's, or without one over that before training; None before a check."""
    if not history.checks:
        return None
    base = history.dense or history.checks[0].perplexity
    of = "the dense model's" if history.dense else "that before training"
    times = "times dense" if history.dense else "times that before training"
    values = {name: [check.perplexity[name] / base[name] for check in history.checks] for name in base}
    figure = _lines(history, values, f": %{{y:.3~f}} {times}")
    if history.dense:
        figure.add_hline(y=1, line={"color": theme.DENSE, "width": 2, "dash": "dash"})
    _value_axis(figure, values, f"Perplexity over {of}", [1.0])
    return Chart(
        title="Does held-out perplexity fall?",
        figure=figure,
        takeaway=_takeaway(history, values, times),
        table=checks_table(history),
        reading=f"1 is {of}. {_reading(history)}",
    )


def kl_by_step(history: RecoveryHistory) -> Chart | None:
    """KL to the dense model on held-out text; None without a teacher or before a check."""
    if not history.checks or not history.checks[0].kl:
        return None
    values = {name: [check.kl[name] for check in history.checks] for name in history.checks[0].kl}
    figure = _lines(history, values, ": KL %{y:.3~g} nats")
    _value_axis(figure, values, "KL to the dense model, nats", [])
    return Chart(
        title="Does KL to the dense model fall?",
        figure=figure,
        takeaway=_takeaway(history, values, "nats"),
        table=checks_table(history),
        reading=f"On held-out text; 0 is identical. {_reading(history)}",
    )


def loss_by_step(history: RecoveryHistory) -> Chart | None:
    """Training loss; None before a step."""
    if not history.steps:
        return None
    losses = np.array([step.loss for step in history.steps])
    numbers = np.array([step.step for step in history.steps])
    width = -(-len(losses) // POINTS)
    starts = np.arange(0, len(losses), width)
    counts = np.diff([*starts, len(losses)])
    means = np.add.reduceat(losses, starts) / counts
    figure = go.Figure()
    for values, line in (
        (means, {"color": theme.translucent(theme.PRUNED, 0.35), "width": 1}),
        (_smoothed(means), {"color": theme.PRUNED, "width": 2.5}),
    ):
        figure.add_trace(
            go.Scatter(
                x=numbers[starts + counts - 1],
                y=values.astype(np.float32),
                mode="lines" if len(values) > 1 else "markers",
                line=line,
                marker={"color": line["color"], "size": 9},
                hovertemplate="step %{x:,}<br>loss %{y:.3~g} nats<extra></extra>",
            )
        )
    _best_line(figure, history)
    figure.update_layout(height=HEIGHT, margin=MARGIN, showlegend=False)
    figure.update_xaxes(title="Step", showgrid=False, zeroline=False)
    figure.update_yaxes(title="Training loss, nats a token", zeroline=False)
    binned = f"Thin: means over {count(width, 'step')}" if width > 1 else "Thin: every step"
    options = history.protocol.get("options") or {}
    what = "KL to the dense model's predictions" if options.get("method") == "distill" else "negative log-likelihood"
    return Chart(
        title="Does the training loss fall?",
        figure=figure,
        takeaway=_trend(losses),
        table=pd.DataFrame(map(asdict, history.steps)).rename(columns=lambda name: name.replace("_", " ")),
        reading=f"{what[0].upper()}{what[1:]} on the text that is trained on. {binned}; bold: their moving average.",
    )


def checks_table(history: RecoveryHistory) -> pd.DataFrame:
    """One row a check: step, tokens, seconds, and perplexity and KL by text; the kept one is marked."""
    best = history.best if history.checks else None
    rows = []
    for check in history.checks:
        row: dict[str, object] = {"step": check.step, "tokens": check.tokens, "seconds": check.seconds}
        for name, value in check.perplexity.items():
            row[f"perplexity, {short_text(name)}"] = value
            if name in history.dense:
                row[f"times dense, {short_text(name)}"] = value / history.dense[name]
        row |= {f"KL, {short_text(name)}": value for name, value in check.kl.items()}
        rows.append(row | {"weights": "kept" if check is best else ""})
    return pd.DataFrame(rows)


def _lines(history: RecoveryHistory, values: Mapping[str, Sequence[float]], hover: str) -> go.Figure:
    """A line a text over the steps of the checks, its first value as a dotted line, and the kept check ringed."""
    figure, steps = go.Figure(), np.array([check.step for check in history.checks], np.int32)
    last = max([*(step.step for step in history.steps[-1:]), int(steps[-1])])
    best = history.checks.index(history.best)
    minutes = np.array([check.seconds / 60 for check in history.checks], np.float32)
    for (name, found), colour in zip(values.items(), COLOURS, strict=False):
        drawn, label = np.array(found, np.float32), text_label(short_text(name))
        if last:
            figure.add_trace(
                go.Scatter(
                    x=np.array([0, last], np.int32),
                    y=np.repeat(drawn[:1], 2),
                    mode="lines",
                    line={"color": theme.translucent(colour, 0.7), "width": 1.5, "dash": "dot"},
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
        figure.add_trace(
            go.Scatter(
                x=steps,
                y=drawn,
                customdata=minutes,
                mode="lines+markers",
                name=label,
                line={"color": colour, "width": 2.5},
                marker={"color": colour, "size": 8},
                hovertemplate=f"step %{{x:,}}, after %{{customdata:.1f}} min<br>{label}{hover}<extra></extra>",
            )
        )
        ring = {"symbol": "circle-open", "size": 17, "color": theme.CHOSEN, "line": {"width": 2.5}}
        figure.add_trace(
            go.Scatter(
                x=steps[best : best + 1],
                y=drawn[best : best + 1],
                mode="markers",
                marker=ring,
                hoverinfo="skip",
                showlegend=False,
            )
        )
    figure.update_layout(height=HEIGHT, margin=MARGIN, legend=LEGEND, showlegend=True)
    figure.update_xaxes(title="Step", showgrid=False, zeroline=False)
    return figure


def _value_axis(figure: go.Figure, values: Mapping[str, Sequence[float]], title: str, more: list[float]) -> None:
    every = np.array([value for found in values.values() for value in found] + more)
    if every.min() > 0 and every.max() >= WIDE * every.min():
        figure.update_yaxes(**log_axis(every), title=f"{title} (log)")
    else:
        figure.update_yaxes(title=title, zeroline=False, rangemode="normal" if more else "tozero")


def _best_line(figure: go.Figure, history: RecoveryHistory) -> None:
    """The step whose weights are kept."""
    if history.checks and history.best.step:
        figure.add_vline(x=history.best.step, line={"color": theme.CHOSEN, "width": 1.5, "dash": "dot"})


def _takeaway(history: RecoveryHistory, values: Mapping[str, Sequence[float]], unit: str) -> str:
    """The kept value on each text, and that before training, e.g. "Step 120 is kept: **1.21** times dense on ..."."""
    best: Check = history.best
    place = history.checks.index(best)
    parts = list[str]()
    for name, found in values.items():
        words = f"**{_number(found[place])}**{f' {unit}' if not parts else ''} on {short_text(name)}"
        before = "" if not best.step else f" ({_number(found[0])}{' before' if not parts else ''})"
        parts.append(words + before)
    return f"{f'Step {best.step:,} is kept' if best.step else 'Before training'}: {', '.join(parts)}."


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 or not math.isfinite(value) else f"{value:,.0f}"


def _reading(history: RecoveryHistory) -> str:
    return "Dotted: before training. Ring: the kept weights." if history.steps else "Training has not begun."


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a twentieth of the values, shorter at the ends."""
    reach = len(values) // 40
    total = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    smoothed: np.ndarray = (total[high] - total[low]) / (high - low)
    return smoothed


def _trend(losses: np.ndarray) -> str:
    if len(losses) < FEWEST:
        return f"{count(len(losses), 'step')} so far; the last loss is {short(losses[-1])} nats."
    part = max(5, round(SHARE * len(losses)))
    first, before, late = losses[:part].mean(), losses[-2 * part : -part].mean(), losses[-part:].mean()
    change = f"{abs(late / before - 1):.1%} {'below' if late < before else 'above'}"
    return (
        f"From **{short(first)}** nats in the first {part} steps to **{short(late)}** in the last, {change} that of "
        f"the {part} before."
    )
