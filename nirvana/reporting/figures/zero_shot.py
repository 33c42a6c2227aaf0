"""Figures of zero-shot tasks: accuracy of each model, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.evaluation.results import SUBJECTS, Measurement
from nirvana.evaluation.zero_shot.results import Comparison, PairedDifference, pairs
from nirvana.evaluation.zero_shot.tasks import MINIMAL_PAIRS, task_title
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, count

BARS = 2.0  # standard errors
SPREAD = 0.24  # between the marks of one row
DIFFERENCES = {
    ("pruned", "dense"): theme.PRUNED,
    ("recovered", "dense"): theme.RECOVERED,
    ("recovered", "pruned"): theme.ATTENTION,
}


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
    subjects = _subjects(found)
    for place, name in enumerate(subjects):
        look = theme.SUBJECTS[name]
        sides = [item.of.get(name) for item in found]
        errors = [BARS * (side.standard_error or 0.0) if side else 0.0 for side in sides]
        shift = SPREAD * (place - (len(subjects) - 1) / 2)
        figure.add_trace(
            go.Scatter(
                x=np.array([side.value if side else np.nan for side in sides], np.float32),
                y=(np.arange(len(found)) + shift).astype(np.float32),
                error_x={"array": np.array(errors, np.float32), "color": look.colour, "thickness": 1.5, "width": 4},
                mode="markers",
                name=name,
                marker={
                    "color": look.colour,
                    "size": 10,
                    "symbol": look.symbol,
                    "line": {"width": 2.5, "color": look.colour},
                },
                hovertemplate=f"{name}: %{{x:.1%}}<extra></extra>",
            )
        )
    _task_axis(figure, found)
    figure.update_layout(height=_height(found, len(subjects) - 1), margin=MARGIN, legend=LEGEND)
    figure.update_xaxes(title="Items that are right", tickformat=".0%", zeroline=False)
    return Chart(
        title=f"How often is each model right on each {what}?",
        figure=figure,
        takeaway=_right(found),
        table=table(found),
        reading=f"Bars: {BARS:g} standard errors each way. The upright stroke is the accuracy of guessing.",
    )


def differences(found: Sequence[Comparison], what: str) -> Chart | None:
    """Paired differences of accuracy with their 95 % intervals, pruned minus dense and, after a recovery, recovered
    minus dense and minus pruned; None where no row has two models' items.

    Args:
        what: kind of row, e.g. "task", "phenomenon".
    """
    sides = pairs(_subjects(found))
    rows = [item for item in found if any(item.difference(*side) is not None for side in sides)]
    if not rows:
        return None
    figure = go.Figure()
    figure.add_vline(x=0, line={"color": theme.DENSE, "width": 2, "dash": "dash"})
    for place, (subject, base) in enumerate(sides):
        shift = SPREAD * (place - (len(sides) - 1) / 2)
        colours = DIFFERENCES.get((subject, base), theme.PRUNED)
        changes = [(row, change) for row, item in enumerate(rows) if (change := item.difference(subject, base))]
        for clear in (True, False):
            part = [(row, change) for row, change in changes if change.clear == clear]
            if len(sides) > 1:
                name, colour = f"{subject} - {base}", colours
            else:
                name, colour = ("differs", theme.PRUNED) if clear else ("not significant", theme.NEUTRAL)
            if part:
                legend = clear or len(sides) == 1 or not any(change.clear for _, change in changes)
                _changes(figure, part, shift, name, colour, filled=clear, legend=legend)
    _task_axis(figure, rows)
    figure.update_layout(height=_height(rows, len(sides)), margin=MARGIN, legend=LEGEND, showlegend=True)
    several = len(sides) > 1
    title = "Difference of accuracy, same items" if several else "Pruned minus dense, same items"
    figure.update_xaxes(title=title, tickformat="+.0%", zeroline=False)
    chance = " One interval in twenty excludes zero by chance." if len(rows) * len(sides) > 4 else ""
    filled = " Filled marks differ; open ones are not significant." if several else ""
    return Chart(
        title=f"On which {what} did pruning{' or recovery' if several else ''} change accuracy?",
        figure=figure,
        takeaway=_verdicts(rows, sides),
        table=table(rows),
        reading="Bars: 95 % intervals of the paired difference, from the items on which the two models disagree "
        f"(Bonett and Price, 2012). A row counts as different where its interval excludes zero.{filled}{chance}",
    )


def _changes(
    figure: go.Figure,
    part: Sequence[tuple[int, PairedDifference]],
    shift: float,
    name: str,
    colour: str,
    *,
    filled: bool,
    legend: bool,
) -> None:
    """Differences as marks with intervals, each at its row."""
    values = np.array([[change.value, change.low, change.high] for _, change in part])  # (rows, 3)
    places = np.array([row for row, _ in part], np.int32)
    figure.add_trace(
        go.Scatter(
            x=values[:, 0].astype(np.float32),
            y=(places + shift).astype(np.float32) if shift else places,
            error_x={
                "array": np.maximum(values[:, 2] - values[:, 0], 0).astype(np.float32),
                "arrayminus": np.maximum(values[:, 0] - values[:, 1], 0).astype(np.float32),
                "color": colour,
                "thickness": 2,
                "width": 5,
            },
            customdata=np.array([[change.lost, change.gained] for _, change in part], np.int32),
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=legend,
            marker={"color": colour, "size": 10, "symbol": "circle" if filled else "circle-open"},
            hovertemplate="%{x:+.1%}<br>%{customdata[0]} items lost, %{customdata[1]} gained<extra></extra>",
        )
    )


def table(found: Sequence[Comparison]) -> pd.DataFrame:
    """One row for each task and metric, with each model, the differences, and the protocol."""
    subjects = _subjects(found)
    sides = pairs(subjects) or [("pruned", "dense")]
    rows = []
    for item in found:
        row: dict[str, object] = {"task": task_title(item.task), "metric": item.metric, "items": item.first.n}
        for name in dict.fromkeys(["dense", "pruned", *subjects]):
            side = item.of.get(name)
            row |= {name: side.value if side else math.nan}
            row |= {f"{name} standard error": side.standard_error if side else math.nan}
        for subject, base in sides:
            change, ending = item.difference(subject, base), f", {subject} - {base}" if len(sides) > 1 else ""
            row[f"{subject} - {base}"] = change.value if change else math.nan
            for name in ("low", "high", "lost", "gained"):
                row[name + ending] = getattr(change, name) if change else math.nan
            row["better" + ending] = item.better(subject, base)
        protocol = item.first.protocol
        row |= {"guessing": _chance(item), "harness": protocol.get("harness", "")}
        row |= {"shots": protocol.get("shots"), "truncated prompts": protocol.get("truncated", 0), "name": item.task}
        rows.append(row)
    return pd.DataFrame(rows)


def _right(found: Sequence[Comparison]) -> str:
    subjects = _subjects(found)
    whole = [item for item in found if len(item.of) == len(subjects)]
    if not whole or len(subjects) < 2:
        return "Only one of the models was measured."
    if len(whole) == 1:
        parts = [f"the {name} {'model is right on' if not n else 'one on'} {_share(item)}"
                 for n, (name, item) in enumerate(whole[0].of.items())]  # fmt: skip
        return f"T{', '.join(parts)[1:]}: {_label(whole[0])}."
    means = {name: np.mean([item.of[name].value for item in whole]) for name in subjects}
    parts = [f"the {name} {'model is right on' if not n else 'one'} {mean:.1%}"
             for n, (name, mean) in enumerate(means.items())]  # fmt: skip
    return f"On average over {len(whole)} rows, {', '.join(parts)}."


def _verdicts(rows: Sequence[Comparison], sides: Sequence[tuple[str, str]]) -> str:
    """A sentence for each two models that differ."""
    clear = [side for side in sides if any(item.better(*side) for item in rows)]
    return " ".join(_verdict(rows, *side) for side in clear or sides[:1])


def _verdict(rows: Sequence[Comparison], subject: str, base: str) -> str:
    paired = [item for item in rows if item.difference(subject, base) is not None]
    worse = [item for item in paired if item.better(subject, base) == base]
    better = [item for item in paired if item.better(subject, base) == subject]
    than = "" if (subject, base) == ("pruned", "dense") else f" than the {base} one"
    if not worse and not better:
        return "No difference is significant." if len(paired) > 1 else "The difference is not significant."

    def names(items: Sequence[Comparison]) -> str:
        ordered = sorted(items, key=lambda item: found.value if (found := item.difference(subject, base)) else 0)
        labels = [_label(item) for item in ordered]
        return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")

    parts = [
        f"clearly {word}{than} on {names(items)}" for word, items in (("worse", worse), ("better", better)) if items
    ]
    rest = len(paired) - len(worse) - len(better)
    text = f"The {subject} model is {' and '.join(parts)}"
    return f"{text}; not significant: {count(rest, 'other difference')}." if rest else f"{text}."


def _subjects(found: Sequence[Comparison]) -> list[str]:
    """The models that were measured."""
    return [name for name in SUBJECTS if any(name in item.of for item in found)]


def _share(item: Measurement) -> str:
    error = item.standard_error
    return f"{item.value:.1%}" + (f" ± {error:.1%}" if error is not None else "") + f" of {item.n:,} items"


def _label(item: Comparison) -> str:
    return task_title(item.task) + ("" if item.metric == "accuracy" else ", normalised")


def _chance(item: Comparison) -> float:
    return float(item.first.protocol.get("chance", 0.0))


def _task_axis(figure: go.Figure, found: Sequence[Comparison]) -> None:
    """Tasks from top to bottom. Names are escaped, since Plotly interprets some HTML."""
    figure.update_yaxes(
        tickvals=list(range(len(found))),
        ticktext=[escape(_label(item)[:40]) for item in found],
        range=[len(found) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )


def _height(found: Sequence[Comparison], marks: int = 1) -> int:
    return 150 + (32 if marks == 1 else 46) * len(found)
