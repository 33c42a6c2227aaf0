"""Figures of the Compare page: cost of pruning on each text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.evaluation.results import Measurement, Report
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis, plus_minus
from nirvana.reporting.figures.names import text_label

# Numbers are comparable only where these fields agree.
SAME_TEXT = ("corpus", "corpus_hash", "split", "window", "tokens", "task")
FIRST_COLUMNS = (
    "metric",
    "model",
    "corpus",
    "value",
    "standard error",
    "n",
    "window",
    "tokens",
    "note",
    "device",
    "dtype",
)
BARS = 2.0  # standard errors
COLLAPSED = 10.0  # times the dense perplexity
WIDE = 8.0  # largest over smallest ratio from which an axis is logarithmic


@dataclass(frozen=True)
class Pair:
    """One metric on one text, for both models; either may be missing."""

    metric: str
    corpus: str
    dense: Measurement | None
    pruned: Measurement | None

    @property
    def ratio(self) -> float:
        """Pruned over dense; NaN where one is missing or not finite."""
        if self.dense is None or self.pruned is None or not self.dense.value:
            return math.nan
        ratio = self.pruned.value / self.dense.value
        return ratio if math.isfinite(ratio) else math.nan

    @property
    def relative_error(self) -> float:
        """Standard error of the ratio over the ratio, as if both were measured independently; NaN if unknown."""
        return math.hypot(_relative(self.dense), _relative(self.pruned))

    @property
    def interval(self) -> tuple[float, float]:
        """The ratio minus and plus two standard errors, on a log scale, where the error of the mean loss is
        symmetric.
        """
        reach = math.exp(min(BARS * self.relative_error, 50.0))
        return self.ratio / reach, self.ratio * reach


def pairs(report: Report, metric: str) -> list[Pair]:
    """Dense and pruned measurements of `metric` on the same tokens, in the report's order."""
    found: dict[tuple[object, ...], dict[str, Measurement]] = {}
    for item in report.measurements:
        if item.metric == metric:
            found.setdefault(tuple(item.protocol.get(name) for name in SAME_TEXT), {}).setdefault(item.subject, item)
    return [
        Pair(metric, str(key[0] or ""), subjects.get("dense"), subjects.get("pruned"))
        for key, subjects in found.items()
    ]


def perplexity_ratios(report: Report) -> Chart | None:
    """Pruned over dense perplexity on each corpus; None where no corpus has both, as finite numbers."""
    found = pairs(report, "perplexity")
    usable = [pair for pair in found if pair.ratio > 0]
    if not usable:
        return None
    ratios = np.array([pair.ratio for pair in usable])
    ends = np.array([pair.interval for pair in usable])  # (corpora, 2), NaN without a standard error
    low, high = np.where(np.isnan(ends), ratios[:, None], ends).T
    log = max(high.max(), 1) >= WIDE * min(low.min(), 1)
    values = np.array([[pair.dense.value, pair.pruned.value] for pair in usable if pair.dense and pair.pruned])
    figure = go.Figure()
    figure.add_vline(x=1, line={"color": theme.DENSE, "width": 2, "dash": "dash"})
    figure.add_trace(
        go.Scatter(
            x=ratios.astype(np.float32),
            y=np.arange(len(usable), dtype=np.int32),
            error_x={
                "array": (high - ratios).astype(np.float32),
                "arrayminus": (ratios - low).astype(np.float32),
                "color": theme.PRUNED,
                "thickness": 2,
                "width": 6,
            },
            customdata=np.hstack([values, low[:, None], high[:, None]]).astype(np.float32),
            mode="markers",
            marker={"color": theme.PRUNED, "size": 11, "line": {"color": "white", "width": 1}},
            hovertemplate="dense %{customdata[0]:,.4~g}, pruned %{customdata[1]:,.4~g}<br>%{x:,.3~f} times"
            "<br>%{customdata[2]:,.3~f} to %{customdata[3]:,.3~f}<extra></extra>",
        )
    )
    _corpus_axis(figure, [pair.corpus for pair in usable])
    figure.update_layout(height=150 + 44 * len(usable), margin=MARGIN, showlegend=False)
    figure.update_xaxes(title="Pruned over dense perplexity" + (" (log)" if log else ""), zeroline=False)
    if log:
        figure.update_xaxes(**log_axis(np.concatenate([low, high, [1.0]])))
    least, most = usable[int(ratios.argmin())], usable[int(ratios.argmax())]
    takeaway = f"{_times(least)} the dense perplexity on {least.corpus}"
    if least is not most:
        takeaway = f"From {takeaway} to {_times(most)} on {most.corpus}"
    unusable = [pair.corpus for pair in found if pair not in usable and pair.pruned and math.isinf(pair.pruned.value)]
    if unusable:
        takeaway += f"; on {', '.join(unusable)} the pruned model's is infinite"
    return Chart(
        title="How many times higher is perplexity after pruning?",
        figure=figure,
        takeaway=f"{takeaway}.",
        table=comparison_table(report, ["perplexity"]),
        reading=(
            f"The dashed line, 1, is the dense model. Bars: {BARS:g} standard errors each way, computed as for "
            "independent texts; both models read the same text, so the actual error is smaller. "
            f"{'Log' if log else 'Linear'} axis."
        ),
    )


def bits_per_byte(report: Report) -> Chart | None:
    """Bits per byte of both models on each corpus; None without any."""
    found = [pair for pair in pairs(report, "bits per byte") if pair.dense and pair.pruned]
    if not found:
        return None
    figure = go.Figure()
    places = np.arange(len(found), dtype=np.int32)
    values = np.array([[pair.dense.value, pair.pruned.value] for pair in found if pair.dense and pair.pruned])
    gaps = np.column_stack([values, np.full(len(found), np.nan)]).astype(np.float32)
    figure.add_trace(
        go.Scatter(
            x=gaps.ravel(),
            y=np.repeat(places, 3),
            mode="lines",
            line={"color": theme.translucent(theme.NEUTRAL, 0.6), "width": 3},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for column, (name, colour, symbol) in enumerate(
        (("dense", theme.DENSE, "circle-open"), ("pruned", theme.PRUNED, "circle"))
    ):
        figure.add_trace(
            go.Scatter(
                x=values[:, column].astype(np.float32),
                y=places,
                mode="markers",
                name=name,
                marker={"color": colour, "size": 12, "symbol": symbol, "line": {"width": 2.5, "color": colour}},
                hovertemplate=f"{name}: %{{x:.4~f}} bits per byte<extra></extra>",
            )
        )
    _corpus_axis(figure, [pair.corpus for pair in found])
    figure.update_layout(height=180 + 44 * len(found), margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(title="Bits per byte of text", zeroline=False, rangemode="tozero")
    added = values[:, 1] - values[:, 0]
    order = np.argsort(added)
    least, most = int(order[0]), int(order[-1])
    words = [f"{value:.3g}" if math.isfinite(value) else "infinitely many" for value in added]
    takeaway = f"Pruning adds {words[most]} bits per byte on {found[most].corpus}"
    takeaway += f" and {words[least]} on {found[least].corpus}." if least != most else "."
    return Chart(
        title="How many bits per byte does each model need?",
        figure=figure,
        takeaway=takeaway,
        table=comparison_table(report, ["bits per byte"]),
        reading="Bits per byte do not depend on how a tokenizer cuts the text, so texts and models can be compared. "
        "Plain bytes cost 8.",
    )


def comparison_table(report: Report, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """One row for each metric and text: both values, their standard errors, the ratio, and the protocol."""
    names = metrics or list(dict.fromkeys(item.metric for item in report.measurements))
    rows = []
    for pair in (pair for metric in names for pair in pairs(report, metric)):
        measured = pair.pruned or pair.dense
        dense, pruned = pair.dense, pair.pruned
        rows.append(
            {
                "metric": pair.metric,
                "corpus": pair.corpus,
                "dense": dense.value if dense else math.nan,
                "dense standard error": _error(dense),
                "pruned": pruned.value if pruned else math.nan,
                "pruned standard error": _error(pruned),
                "pruned / dense": pair.ratio,
                "n": measured.n if measured else None,
                "measured": describe_protocol(measured) if measured else "",
            }
        )
    return pd.DataFrame(rows)


def report_table(report: Report) -> pd.DataFrame:
    """A row for each measurement, with its complete protocol."""
    rows = [
        {
            "metric": item.metric,
            "model": item.subject,
            "value": item.value,
            "standard error": _error(item),
            "n": item.n,
            **{name.replace("_", " "): value for name, value in item.protocol.items()},
        }
        for item in report.measurements
    ]
    table = pd.DataFrame(rows)
    first = [name for name in FIRST_COLUMNS if name in table]
    return table[[*first, *(name for name in table if name not in first)]]


def describe_protocol(measurement: Measurement) -> str:
    """A protocol in words, e.g. "python-docs 3f2a91c0, 16,352 tokens in windows of 512, cpu float32"."""
    protocol = measurement.protocol
    text = " ".join(
        part for part in (str(protocol.get("corpus", "")), str(protocol.get("corpus_hash", ""))[:8]) if part
    )
    parts = [text] if text else []
    tokens = protocol.get("tokens")
    if tokens is not None:
        window, length = protocol.get("window"), protocol.get("length")
        parts.append(f"{tokens:,} tokens")
        parts[-1] += f" in windows of {window:,}" if window else f" in samples of {length:,}" if length else ""
    parts.append(str(protocol.get("task") or ""))
    parts.append(" ".join(str(protocol[name]) for name in ("device", "dtype") if protocol.get(name)))
    parts.append(str(protocol.get("note") or ""))
    return ", ".join(part for part in parts if part)


def _corpus_axis(figure: go.Figure, corpora: Sequence[str]) -> None:
    """Corpora from top to bottom."""
    figure.update_yaxes(
        tickvals=list(range(len(corpora))),
        ticktext=[text_label(name) for name in corpora],
        range=[len(corpora) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )


def _times(pair: Pair) -> str:
    error = pair.ratio * pair.relative_error
    return f"{plus_minus(pair.ratio, None if math.isnan(error) else error)} times"


def _relative(measurement: Measurement | None) -> float:
    if measurement is None or measurement.standard_error is None or not measurement.value:
        return math.nan
    return measurement.standard_error / measurement.value


def _error(measurement: Measurement | None) -> float:
    if measurement is None or measurement.standard_error is None:
        return math.nan
    return measurement.standard_error
