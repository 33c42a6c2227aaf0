"""Figures of zero-shot tasks: accuracy of each model, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.evaluation.results import Measurement
from nirvana.evaluation.zero_shot.results import Comparison, PairedDifference
from nirvana.evaluation.zero_shot.tasks import MINIMAL_PAIRS, task_title
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, count

BARS = 2.0  # standard errors


def split_phenomena(found: Sequence[Comparison]) -> tuple[list[Comparison], list[Comparison]]:
    """Whole tasks, and the phenomena of the minimal pairs."""
    parts = [item for item in found if item.task.startswith(f"{MINIMAL_PAIRS}/")]
    return [item for item in found if item not in parts], parts


def accuracies(found: Sequence[Comparison], what: str) -> Chart | None:
    """Accuracy of each model, one row a task or phenomenon; None without any.

    Args:
        what: kind of row, e.g. "task", "phenomenon".
    """
    if not found:
        return None
    figure = go.Figure()
    guess = [_chance(item) for item in found]
    figure.add_trace(
        go.Scatter(
            x=np.array([value if value else np.nan for value in guess], np.float32),
            y=np.arange(len(found), dtype=np.int32),
            mode="markers",
            name="guessing",
            marker={"symbol": "line-ns-open", "size": 16, "color": theme.NEUTRAL, "line": {"width": 2}},
            hovertemplate="guessing: %{x:.1%}<extra></extra>",
        )
    )
    for name, colour, symbol, shift in (
        ("dense", theme.DENSE, "circle-open", -0.12),
        ("pruned", theme.PRUNED, "circle", 0.12),
    ):
        sides = [getattr(item, name) for item in found]
        errors = [BARS * (side.standard_error or 0.0) if side else 0.0 for side in sides]
        figure.add_trace(
            go.Scatter(
                x=np.array([side.value if side else np.nan for side in sides], np.float32),
                y=(np.arange(len(found)) + shift).astype(np.float32),
                error_x={"array": np.array(errors, np.float32), "color": colour, "thickness": 1.5, "width": 4},
                mode="markers",
                name=name,
                marker={"color": colour, "size": 10, "symbol": symbol, "line": {"width": 2.5, "color": colour}},
                hovertemplate=f"{name}: %{{x:.1%}}<extra></extra>",
            )
        )
    _task_axis(figure, found)
    figure.update_layout(height=_height(found), margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(title="Items that are right", tickformat=".0%", zeroline=False)
    return Chart(
        title=f"How often is each model right on each {what}?",
        figure=figure,
        takeaway=_right(found),
        table=table(found),
        reading=f"Bars: {BARS:g} standard errors each way. The upright stroke is the accuracy of guessing.",
    )


def differences(found: Sequence[Comparison], what: str) -> Chart | None:
    """Pruned minus dense accuracy with its 95 % interval; None where no row has both models' items.

    Args:
        what: kind of row, e.g. "task", "phenomenon".
    """
    paired = [(item, item.difference) for item in found if item.difference is not None]
    if not paired:
        return None
    rows = [item for item, _ in paired]
    values = np.array([[change.value, change.low, change.high] for _, change in paired])  # (rows, 3)
    figure = go.Figure()
    figure.add_vline(x=0, line={"color": theme.DENSE, "width": 2, "dash": "dash"})
    for clear, name, colour in ((True, "differs", theme.PRUNED), (False, "not significant", theme.NEUTRAL)):
        chosen = [index for index, (_, change) in enumerate(paired) if change.clear == clear]
        if chosen:
            part = values[chosen]
            figure.add_trace(
                go.Scatter(
                    x=part[:, 0].astype(np.float32),
                    y=np.array(chosen, np.int32),
                    error_x={
                        "array": np.maximum(part[:, 2] - part[:, 0], 0).astype(np.float32),
                        "arrayminus": np.maximum(part[:, 0] - part[:, 1], 0).astype(np.float32),
                        "color": colour,
                        "thickness": 2,
                        "width": 5,
                    },
                    customdata=np.array([[paired[i][1].lost, paired[i][1].gained] for i in chosen], np.int32),
                    mode="markers",
                    name=name,
                    marker={"color": colour, "size": 10, "symbol": "circle" if clear else "circle-open"},
                    hovertemplate="%{x:+.1%}<br>%{customdata[0]} items lost, %{customdata[1]} gained<extra></extra>",
                )
            )
    _task_axis(figure, rows)
    figure.update_layout(height=_height(rows), margin=MARGIN, legend=LEGEND, showlegend=True)
    figure.update_xaxes(title="Pruned minus dense, same items", tickformat="+.0%", zeroline=False)
    chance = " One interval in twenty excludes zero by chance." if len(rows) > 4 else ""
    return Chart(
        title=f"On which {what} did pruning change accuracy?",
        figure=figure,
        takeaway=_verdict(paired),
        table=table(rows),
        reading="Bars: 95 % intervals of the paired difference, from the items on which the two models disagree "
        f"(Bonett and Price, 2012). A row counts as different where its interval excludes zero.{chance}",
    )


def table(found: Sequence[Comparison]) -> pd.DataFrame:
    """One row for each task and metric, with both models, the difference, and the protocol."""
    rows = []
    for item in found:
        measured, change = item.pruned or item.dense, item.difference
        if measured is None:
            continue
        row: dict[str, object] = {"task": task_title(item.task), "metric": item.metric, "items": measured.n}
        for name, side in (("dense", item.dense), ("pruned", item.pruned)):
            row[name] = side.value if side else math.nan
            row[f"{name} standard error"] = side.standard_error if side else math.nan
        for name in ("value", "low", "high", "lost", "gained"):
            row["pruned - dense" if name == "value" else name] = getattr(change, name) if change else math.nan
        protocol = measured.protocol
        row |= {"better": item.better, "guessing": _chance(item), "harness": protocol.get("harness", "")}
        row |= {"shots": protocol.get("shots"), "truncated prompts": protocol.get("truncated", 0), "name": item.task}
        rows.append(row)
    return pd.DataFrame(rows)


def _right(found: Sequence[Comparison]) -> str:
    both = [(item, item.dense, item.pruned) for item in found if item.dense and item.pruned]
    if not both:
        return "Only one of the models was measured."
    if len(both) == 1:
        item, dense, pruned = both[0]
        return f"The dense model is right on {_share(dense)}, the pruned one on {_share(pruned)}: {_label(item)}."
    means = np.mean([[dense.value, pruned.value] for _, dense, pruned in both], axis=0)
    return (
        f"On average over {len(both)} rows, the dense model is right on {means[0]:.1%}, the pruned one {means[1]:.1%}."
    )


def _verdict(paired: Sequence[tuple[Comparison, PairedDifference]]) -> str:
    worse = [item for item, change in paired if item.better == "dense"]
    better = [item for item, change in paired if item.better == "pruned"]
    if not worse and not better:
        return "No difference is significant." if len(paired) > 1 else "The difference is not significant."
    parts = [f"clearly {word} on {_names(items)}" for word, items in (("worse", worse), ("better", better)) if items]
    rest = len(paired) - len(worse) - len(better)
    text = f"The pruned model is {' and '.join(parts)}"
    return f"{text}; not significant: {count(rest, 'other difference')}." if rest else f"{text}."


def _names(items: Sequence[Comparison]) -> str:
    labels = [_label(item) for item in sorted(items, key=lambda item: item.difference.value if item.difference else 0)]
    return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def _share(item: Measurement) -> str:
    error = item.standard_error
    return f"{item.value:.1%}" + (f" ± {error:.1%}" if error is not None else "") + f" of {item.n:,} items"


def _label(item: Comparison) -> str:
    return task_title(item.task) + ("" if item.metric == "accuracy" else ", normalised")


def _chance(item: Comparison) -> float:
    measured = item.dense or item.pruned
    return float(measured.protocol.get("chance", 0.0)) if measured else 0.0


def _task_axis(figure: go.Figure, found: Sequence[Comparison]) -> None:
    """Tasks from top to bottom. Names are escaped, since Plotly interprets some HTML."""
    figure.update_yaxes(
        tickvals=list(range(len(found))),
        ticktext=[escape(_label(item)[:40]) for item in found],
        range=[len(found) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )


def _height(found: Sequence[Comparison]) -> int:
    return 150 + 32 * len(found)
