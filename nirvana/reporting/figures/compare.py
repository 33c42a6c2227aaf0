"""Figures of the Compare page: cost of pruning on each text, and what recovery brings back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from nirvana.evaluation.results import Report
from nirvana.reporting.aligned import BARS, Aligned, align, comparison_table
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis, plus_minus
from nirvana.reporting.figures.names import text_label

WIDE = 8.0  # largest over smallest ratio from which an axis is logarithmic
SHIFT = 0.16  # of the marks of two models on one text
SHOWN = 3  # texts of a sentence


def perplexity_ratios(report: Report) -> Chart | None:
    """Perplexity over the dense one on each corpus, of the pruned and the recovered model; None where no corpus has
    both, as finite numbers.
    """
    found = align(report, "perplexity")
    usable = [line for line in found if line.ratio() > 0]
    if not usable:
        return None
    subjects = [name for name in report.subjects if name != "dense"]
    figure, ends = go.Figure(), [1.0]
    figure.add_vline(x=1, line={"color": theme.DENSE, "width": 2, "dash": "dash"})
    for subject, shift in zip(subjects, (-SHIFT, SHIFT) if len(subjects) > 1 else (0.0,), strict=True):
        ends += _ratios(figure, usable, subject, shift)
    log = max(ends) >= WIDE * min(ends)
    _corpus_axis(figure, [line.corpus for line in usable])
    several = len(subjects) > 1
    height = 150 + (60 if several else 44) * len(usable)
    figure.update_layout(height=height, margin=MARGIN, legend=LEGEND, showlegend=several)
    whose = "Perplexity over the dense model's" if several else "Pruned over dense perplexity"
    figure.update_xaxes(title=whose + (" (log)" if log else ""), zeroline=False)
    if log:
        figure.update_xaxes(**log_axis(np.array(ends)))
    infinite = [line.corpus for line in found if line not in usable and math.isinf(line.last.value)]
    takeaway = _recovered_words(usable) if several else _cost_words(usable)
    if infinite:
        takeaway += f"; on {', '.join(infinite)} the {subjects[-1]} model's is infinite"
    return Chart(
        title="How many times higher is perplexity after pruning" + (", and after recovery?" if several else "?"),
        figure=figure,
        takeaway=f"{takeaway}.",
        table=comparison_table(report, ["perplexity"]),
        reading=(
            f"The dashed line, 1, is the dense model. Bars: {BARS:g} standard errors each way, computed as for "
            f"independent texts; {'all' if several else 'both'} models read the same text, so the actual error is "
            f"smaller. {'Log' if log else 'Linear'} axis."
        ),
    )


def _ratios(figure: go.Figure, lines: Sequence[Aligned], subject: str, shift: float) -> list[float]:
    """A mark with its interval for each text; returns the ends of the intervals."""
    part = [(row, line) for row, line in enumerate(lines) if line.ratio(subject) > 0]
    if not part:
        return []
    ratios = np.array([line.ratio(subject) for _, line in part])
    ends = np.array([line.interval(subject) for _, line in part])  # (corpora, 2), NaN without a standard error
    low, high = np.where(np.isnan(ends), ratios[:, None], ends).T
    values = np.array([[line.of["dense"].value, line.of[subject].value] for _, line in part])
    places = np.array([row for row, _ in part], np.int32)
    figure.add_trace(
        go.Scatter(
            x=ratios.astype(np.float32),
            y=(places + shift).astype(np.float32) if shift else places,
            error_x={
                "array": (high - ratios).astype(np.float32),
                "arrayminus": (ratios - low).astype(np.float32),
                "color": theme.SUBJECTS[subject].colour,
                "thickness": 2,
                "width": 6,
            },
            customdata=np.hstack([values, low[:, None], high[:, None]]).astype(np.float32),
            mode="markers",
            name=subject,
            marker={
                "color": theme.SUBJECTS[subject].colour,
                "symbol": theme.SUBJECTS[subject].symbol,
                "size": 11,
                "line": {"color": "white", "width": 1},
            },
            hovertemplate=f"dense %{{customdata[0]:,.4~g}}, {subject} %{{customdata[1]:,.4~g}}<br>%{{x:,.3~f}} times"
            "<br>%{customdata[2]:,.3~f} to %{customdata[3]:,.3~f}<extra></extra>",
        )
    )
    return [float(low.min()), float(high.max())]


def bits_per_byte(report: Report) -> Chart | None:
    """Bits per byte of each model on each corpus; None without any."""
    found = [line for line in align(report, "bits per byte") if {"dense", "pruned"} <= line.of.keys()]
    if not found:
        return None
    figure = go.Figure()
    places = np.arange(len(found), dtype=np.int32)
    subjects = list(report.subjects)
    values = np.array([[line.of[name].value if name in line.of else math.nan for name in subjects] for line in found])
    finite = np.where(np.isfinite(values), values, np.nan)
    gaps = np.column_stack([np.nanmin(finite, axis=1), np.nanmax(finite, axis=1), np.full(len(found), np.nan)])
    figure.add_trace(
        go.Scatter(
            x=gaps.astype(np.float32).ravel(),
            y=np.repeat(places, 3),
            mode="lines",
            line={"color": theme.translucent(theme.NEUTRAL, 0.6), "width": 3},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    for column, name in enumerate(subjects):
        look = theme.SUBJECTS[name]
        figure.add_trace(
            go.Scatter(
                x=values[:, column].astype(np.float32),
                y=places,
                mode="markers",
                name=name,
                marker={
                    "color": look.colour,
                    "size": 12,
                    "symbol": look.symbol,
                    "line": {"width": 2.5, "color": look.colour},
                },
                hovertemplate=f"{name}: %{{x:.4~f}} bits per byte<extra></extra>",
            )
        )
    _corpus_axis(figure, [line.corpus for line in found])
    figure.update_layout(height=180 + 44 * len(found), margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(title="Bits per byte of text", zeroline=False, rangemode="tozero")
    added = values[:, 1:] - values[:, :1]  # (corpora, models after the dense one)
    order = np.argsort(added[:, 0])
    least, most = int(order[0]), int(order[-1])
    words = [[f"{value:.3g}" if math.isfinite(value) else "infinitely many" for value in row] for row in added]
    takeaway = f"Pruning adds {words[most][0]} bits per byte on {found[most].corpus}"
    takeaway += f" and {words[least][0]} on {found[least].corpus}" if least != most else ""
    if len(subjects) > 2:
        takeaway += f"; after recovery the difference is {words[most][1]}"
        takeaway += f" and {words[least][1]}" if least != most else ""
    return Chart(
        title="How many bits per byte does each model need?",
        figure=figure,
        takeaway=f"{takeaway}.",
        table=comparison_table(report, ["bits per byte"]),
        reading="Bits per byte do not depend on how a tokenizer cuts the text, so texts and models can be compared. "
        "Plain bytes cost 8.",
    )


def _corpus_axis(figure: go.Figure, corpora: Sequence[str]) -> None:
    """Corpora from top to bottom."""
    figure.update_yaxes(
        tickvals=list(range(len(corpora))),
        ticktext=[text_label(name) for name in corpora],
        range=[len(corpora) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )


def _cost_words(usable: Sequence[Aligned]) -> str:
    least, most = min(usable, key=lambda line: line.ratio()), max(usable, key=lambda line: line.ratio())
    takeaway = f"{_times(least)} times the dense perplexity on {least.corpus}"
    return takeaway if least is most else f"From {takeaway} to {_times(most)} times on {most.corpus}"


def _recovered_words(usable: Sequence[Aligned]) -> str:
    parts = [f"{_times(line)} to {_times(line, 'recovered')} on {line.corpus}" for line in usable[:SHOWN]]
    return f"Recovery takes perplexity, over the dense one, from {', '.join(parts)}"


def _times(line: Aligned, subject: str = "pruned") -> str:
    ratio = line.ratio(subject)
    error = ratio * line.relative_error(subject)
    return plus_minus(ratio, None if math.isnan(error) else error)
