"""Figures of the Calibration page: differences of candidate sets, and significance of the winner."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.calibration.sets import CalibrationSelection
from nirvana.reporting.contests import Interval, paired_mean
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.chart import Chart, log_axis, plus_minus, short
from nirvana.reporting.figures.names import wrapped_label

POINTS = 2048  # drawn in one chart
WIDE = 10.0  # largest over smallest value from which an axis is logarithmic
NAMED = 16  # candidates up to which an axis names their texts
WINNER, OTHER = theme.ATTENTION, theme.NEUTRAL


class Verdict(NamedTuple):
    """Excess KL of the runner-up over the winner on the same probes, in nats.

    `clear`: whether the 95 % interval of the difference excludes zero; None with one probe sample.
    """

    runner_up: int
    margin: float
    error: float
    clear: bool | None


def several_texts(selection: CalibrationSelection) -> bool:
    """Whether the candidates are from more than one text."""
    return len({candidate.calibration.source_hash for candidate in selection.candidates}) > 1


def set_name(selection: CalibrationSelection, index: int) -> str:
    """E.g. "set 3"; where there are several texts, "set 3 (novel.txt, seed 2)"."""
    drawn = selection.candidates[index].calibration
    return f"set {index + 1}" + (f" ({drawn.source}, seed {drawn.seed})" if several_texts(selection) else "")


def verdict(selection: CalibrationSelection) -> Verdict | None:
    """The winner against the runner-up; None with a single candidate."""
    others = [index for index in selection.ranking if index != selection.winner]
    if not others:
        return None
    margin, error = selection.margin(others[0])
    clear = None if math.isnan(error) else interval(selection, others[0]).side > 0
    return Verdict(others[0], margin, error, clear)


def interval(selection: CalibrationSelection, index: int) -> Interval:
    """The KL of a candidate minus the winner's on the same probes."""
    return paired_mean(*(selection.candidates[each].divergence.per_sample for each in (index, selection.winner)))


def candidate_divergences(selection: CalibrationSelection) -> Chart:
    """Box, points and mean of every candidate's KL per probe sample, lowest mean first, the winner in colour."""
    order = winner_first(selection)
    values = np.stack([selection.candidates[index].divergence.per_sample for index in order])  # (candidates, samples)
    log = is_wide(values)
    samples = values.shape[1]
    most = max(8, POINTS // len(order))
    drawn = np.unique(np.linspace(0, samples - 1, min(samples, most)).round().astype(np.int32))
    spread = ((drawn * 0.618034) % 1 - 0.5) * 0.5  # side by side, without a pattern
    low, first, middle, third, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1).astype(np.float32)
    table = candidate_table(selection)
    figure = go.Figure()
    chosen = np.array([index == selection.winner for index in order])
    places = np.arange(len(order), dtype=np.float32)
    for name, mine, colour in (("winner", chosen, WINNER), ("other sets", ~chosen, OTHER)):
        if not mine.any():
            continue
        number = np.array([index + 1 for index in order], np.int32)[mine]
        figure.add_trace(
            go.Scatter(
                x=(places[mine, None] + spread).ravel().astype(np.float32),
                y=values[mine][:, drawn].ravel().astype(np.float32),
                customdata=np.stack([np.repeat(number, len(drawn)), np.tile(drawn + 1, len(number))], axis=1),
                mode="markers",
                marker={"color": theme.translucent(colour, 0.5), "size": 4},
                showlegend=False,
                hovertemplate="set %{customdata[0]}, probe %{customdata[1]}<br>KL %{y:.3~g} nats<extra></extra>",
            )
        )
        figure.add_trace(
            go.Box(
                x=places[mine],
                lowerfence=low[mine],
                q1=first[mine],
                median=middle[mine],
                q3=third[mine],
                upperfence=high[mine],
                width=0.62,
                line={"color": colour, "width": 1.5},
                fillcolor=theme.translucent(colour, 0.12),
                showlegend=False,
                hoverinfo="skip",
            )
        )
        rows = table[mine]
        figure.add_trace(
            go.Scatter(
                x=places[mine],
                y=rows["mean KL"].to_numpy(np.float32),
                error_y={
                    "array": rows["standard error"].fillna(0).to_numpy(np.float32),
                    "color": colour,
                    "thickness": 1.5,
                    "width": 5,
                },
                customdata=np.stack([middle[mine], low[mine], high[mine]], axis=1).astype(np.float32),
                text=[escape(set_name(selection, index)) for index in np.array(order)[mine]],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 10, "symbol": "diamond", "line": {"color": "white", "width": 1}},
                hovertemplate="%{text}<br>mean %{y:.4~g} nats<br>median %{customdata[0]:.3~g}"
                "<br>9 of 10 probes %{customdata[1]:.3~g} to %{customdata[2]:.3~g}<extra></extra>",
            )
        )
    figure.update_layout(
        height=380 if not several_texts(selection) else 540, margin=MARGIN, legend=LEGEND, hovermode="closest"
    )
    _candidate_axis(figure, selection, named=several_texts(selection) and len(order) <= NAMED)
    figure.update_yaxes(title="KL per probe, nats" + (" (log)" if log else ""), zeroline=False)
    if log:
        figure.update_yaxes(**log_axis(values))
    return Chart(
        title="Which candidate set prunes best?",
        figure=figure,
        takeaway=_lowest(selection),
        table=table,
        reading=f"Each point is one probe sample{_share(len(drawn), samples)}, each box the middle half of them with "
        "its median, the whiskers 5 % to 95 %; the diamond is the mean with one standard error. "
        f"{'Log' if log else 'Linear'} axis.",
    )


def margins(selection: CalibrationSelection) -> Chart:
    """Excess KL of every other candidate over the winner on the same probes; needs two candidates or more."""
    order = winner_first(selection)[1:]
    found = np.array([selection.margin(index) for index in order])  # (others, 2)
    difference, error = found[:, 0], found[:, 1]
    intervals = [interval(selection, index) for index in order]
    reach = np.nan_to_num([each.high - each.value for each in intervals], posinf=0.0)
    clear = np.array([each.side > 0 for each in intervals])
    places = np.arange(1, len(order) + 1, dtype=np.float32)
    figure = go.Figure()
    figure.add_hline(y=0, line={"color": WINNER, "width": 2})
    for name, mine, colour, symbol in (
        ("higher than the winner", clear, theme.REMOVED, "circle"),
        ("not significantly higher", ~clear, OTHER, "circle-open"),
    ):
        if not mine.any():
            continue
        figure.add_trace(
            go.Scatter(
                x=places[mine],
                y=difference[mine].astype(np.float32),
                error_y={
                    "array": reach[mine].astype(np.float32),
                    "color": colour,
                    "thickness": 2,
                    "width": 6,
                },
                customdata=error[mine].astype(np.float32),
                text=[escape(set_name(selection, index)) for index in np.array(order)[mine]],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 10, "symbol": symbol, "line": {"width": 2, "color": colour}},
                hovertemplate="%{text}<br>%{y:+.3~g} nats, standard error %{customdata:.2~g}<extra></extra>",
            )
        )
    figure.update_layout(height=320, margin=MARGIN, legend=LEGEND, showlegend=True)
    _candidate_axis(figure, selection)
    figure.update_yaxes(title="KL above the winner, nats", zeroline=False)
    table = pd.DataFrame(
        {
            "set": [index + 1 for index in order],
            "text": [selection.candidates[index].calibration.source for index in order],
            "seed": [selection.candidates[index].calibration.seed for index in order],
            "difference": difference,
            "standard error": error,
            "in standard errors": np.divide(difference, error, out=np.full_like(error, np.nan), where=error > 0),
            "significant": clear,
        }
    )
    return Chart(
        title="Is the winner better than chance?",
        figure=figure,
        takeaway=_distinguishable(selection, int(clear.sum())),
        table=table,
        reading=(
            "Differences are paired by probe, so the difficulty of a probe cancels out. Bars: 95 % intervals; a set "
            "whose bar crosses the line is not significantly worse. The winner was chosen on these same probes, a "
            "slight bias in its favour."
        ),
    )


def candidate_table(selection: CalibrationSelection) -> pd.DataFrame:
    """One row a candidate, lowest mean first. Sets are numbered from 1 in the order they were drawn."""
    rows = []
    for index in winner_first(selection):
        candidate = selection.candidates[index]
        values = candidate.divergence.per_sample
        low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
        rows.append(
            {
                "set": index + 1,
                "text": candidate.calibration.source,
                "seed": candidate.calibration.seed,
                "winner": index == selection.winner,
                "mean KL": candidate.divergence.mean,
                "standard error": candidate.divergence.standard_error,
                "5%": low,
                "median": median,
                "95%": high,
                "sparsity": candidate.sparsity,
                "hash": candidate.calibration.hash[:12],
            }
        )
    return pd.DataFrame(rows)


def winner_first(selection: CalibrationSelection) -> list[int]:
    """Candidate indices, lowest mean first."""
    return [selection.winner, *(index for index in selection.ranking if index != selection.winner)]


def is_wide(values: np.ndarray) -> bool:
    """Whether `values` need a log axis: all positive, with a large range."""
    return bool(np.isfinite(values).all() and values.min() > 0 and values.max() >= WIDE * values.min())


def _lowest(selection: CalibrationSelection) -> str:
    best, *others = winner_first(selection)
    lowest = selection.candidates[best].divergence
    words = plus_minus(lowest.mean, lowest.standard_error)
    name = set_name(selection, best)
    if not others:
        return f"There is one candidate, {name}: mean KL {words} nats."
    highest = selection.candidates[others[-1]].divergence.mean
    if highest == lowest.mean:
        return f"All {len(others) + 1} sets have the same mean KL, {short(highest)} nats; the first one drawn wins."
    more = f", {highest / lowest.mean - 1:.0%} more" if lowest.mean > 0 and math.isfinite(highest) else ""
    last = f"the last, {set_name(selection, others[-1])}, has {plus_minus(highest, None)}{more}"
    return f"{name[0].upper()}{name[1:]}, with a mean KL of {words} nats; {last}."


def _distinguishable(selection: CalibrationSelection, clear: int) -> str:
    found = verdict(selection)
    if found is None:
        return "There is only one candidate."
    others = len(selection.candidates) - 1
    if found.clear is None:
        return "Unknown: one probe sample has no standard error."
    gap = f"{set_name(selection, found.runner_up)}, is {plus_minus(found.margin, found.error)} nats higher"
    if not found.clear:
        rest = f"; {clear} of the {others} other sets are clearly higher" if clear else ""
        return f"Not clearly: the runner-up, {gap}, which is within noise{rest}."
    rest = f"; {clear} of the {others} other sets are significantly worse" if clear < others else ""
    rest = f"; so are all {others} other sets" if 1 < others == clear else rest
    return f"Yes: the runner-up, {gap}{rest}."


def _candidate_axis(figure: go.Figure, selection: CalibrationSelection, *, named: bool = False) -> None:
    order, labels = winner_first(selection), []
    for index in order:
        drawn = selection.candidates[index].calibration
        text = wrapped_label(f"{drawn.source}, {drawn.seed}", 24, 2)
        label = f"{index + 1}: {text}" if named else f"{index + 1}"
        labels.append(f"<b>{label}</b>" if index == selection.winner else label)
    figure.update_xaxes(
        title="Candidate set" + (": text and seed" if named else "") + ", lowest mean first",
        tickvals=list(range(len(order))),
        ticktext=labels,
        tickangle=-90 if named else 0,
        automargin=True,
        range=[-0.6, len(order) - 0.4],
        showgrid=False,
        zeroline=False,
    )


def _share(drawn: int, samples: int) -> str:
    return "" if drawn == samples else f" ({drawn:,} of {samples:,} drawn)"
