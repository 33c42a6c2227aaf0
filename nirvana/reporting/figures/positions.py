"""KL between the dense and the pruned model by token position."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.calibration.sets import CalibrationSelection
from nirvana.reporting.figures.allocation import LEGEND, MARGIN
from nirvana.reporting.figures.calibration import OTHER, WINNER, is_wide, set_name, winner_first
from nirvana.reporting.figures.chart import Chart, count, log_axis, short

SHORTEST = 8  # positions of the shortest probes that `by_length` compares


def by_position(selection: CalibrationSelection) -> Chart:
    """Mean KL over the probe samples at each token position, one line a candidate."""
    order = winner_first(selection)
    values = np.stack([selection.candidates[index].divergence.per_token.mean(axis=0) for index in order])
    log = is_wide(values)
    length = values.shape[1]
    figure = _position_lines(selection, order, values.astype(np.float32))
    figure.update_yaxes(title="Mean KL, nats" + (" (log)" if log else ""), **(log_axis(values) if log else {}))
    mine = values[order.index(selection.winner)]
    peak, tail = int(np.argmax(mine)), max(1, length // 4)
    takeaway = f"With set {selection.winner + 1}, KL is highest at position {peak + 1} ({short(mine[peak])} nats)"
    takeaway += f"; over the last {count(tail, 'position')} it averages {short(mine[-tail:].mean())}."
    table = pd.DataFrame({f"set {index + 1}": values[order.index(index)] for index in range(len(order))})
    table.insert(0, "position", np.arange(1, length + 1))
    return Chart(
        title="At which positions do predictions differ?",
        figure=figure,
        takeaway=takeaway,
        table=table,
        reading=f"{_first_position(selection)} Mean over {count(_samples(selection), 'probe sample')}; "
        f"{'log' if log else 'linear'} axis.",
    )


def by_length(selection: CalibrationSelection) -> Chart:
    """Each candidate's KL over the first positions of every probe, relative to the winner's; two candidates or more.

    A decoder's predictions do not depend on later tokens, so the mean over the first n positions is the KL on probes of
    n tokens.
    """
    order = winner_first(selection)
    tokens = np.stack([selection.candidates[index].divergence.per_token for index in order]).astype(np.float64)
    length = tokens.shape[2]
    lengths = [*(2**power for power in range(length.bit_length()) if SHORTEST <= 2**power < length), length]
    means = np.stack([tokens[:, :, :size].mean(axis=(1, 2)) for size in lengths], axis=1)  # (candidates, lengths)
    relative = np.divide(means, means[0], out=np.ones_like(means), where=means[0] > 0)
    hover = [
        f"set {index + 1}, first %{{x}} positions<br>%{{customdata:.3~g}} nats, %{{y:.3f}} x the winner"
        for index in order
    ]
    places = np.array(lengths, np.int32)
    figure = _candidate_lines(selection, order, places, relative, hover, marked=True, details=means)
    figure.update_xaxes(title="Positions of each probe (log)", type="log", tickvals=lengths, showgrid=False)
    figure.update_yaxes(title="KL over the winner's", zeroline=False)
    table = pd.DataFrame({f"set {index + 1}": means[order.index(index)] for index in range(len(order))})
    table.insert(0, "positions", lengths)
    return Chart(
        title="Would shorter probes choose another set?",
        figure=figure,
        takeaway=_other_choice(selection, order, lengths, relative),
        table=table,
        reading="Below the winner's line, probes of that length would choose another set. Paired by probe, without "
        "error bars.",
    )


def _other_choice(selection: CalibrationSelection, order: list[int], lengths: list[int], relative: np.ndarray) -> str:
    """The longest shorter probe that would choose another set, and the cost of its choice."""
    chosen = relative.argmin(axis=0)  # rows of `order`; the first of equals is the winner
    other = [place for place in range(len(lengths)) if chosen[place]]
    if not other:
        return f"No: the first {count(lengths[0], 'position')} of each probe choose the same set."
    place = max(other)
    index, cost = order[chosen[place]], relative[chosen[place], -1] - 1
    return (
        f"Yes: the first {count(lengths[place], 'position')} choose {set_name(selection, index)}, whose KL over all "
        f"{lengths[-1]:,} positions is {cost:.1%} higher."
    )


def one_probe(selection: CalibrationSelection, sample: int) -> Chart:
    """KL at each position of one probe sample, one line a candidate."""
    order = winner_first(selection)
    values = np.stack([selection.candidates[index].divergence.per_token[sample] for index in order])
    mine = values[order.index(selection.winner)].astype(np.float64)
    figure = _position_lines(selection, order, values.astype(np.float32))
    figure.update_layout(height=260)
    figure.update_yaxes(title="KL, nats")
    rank = probes_by_divergence(selection).index(sample) + 1
    takeaway = "With the winner, both models predict the same."
    if mine.sum() > 0:
        falling = np.sort(mine)[::-1].cumsum()
        half = int(np.searchsorted(falling, falling[-1] / 2)) + 1
        takeaway = (
            f"With set {selection.winner + 1}, {short(mine.mean())} nats on average, number {rank} of "
            f"{_samples(selection)} from the hardest; {half} of {count(len(mine), 'position')} "
            f"{'makes' if half == 1 else 'make'} up half of it."
        )
    table = pd.DataFrame({f"set {index + 1}": values[order.index(index)] for index in range(len(order))})
    table.insert(0, "position", np.arange(1, len(mine) + 1))
    return Chart(
        title=f"At which positions of probe {sample + 1} do predictions differ?",
        figure=figure,
        takeaway=takeaway,
        table=table,
        reading="Linear axis.",
    )


def probes_by_divergence(selection: CalibrationSelection) -> list[int]:
    """Probe samples from the highest KL of the winner to the lowest."""
    values = selection.candidates[selection.winner].divergence.per_sample
    return [int(index) for index in np.argsort(-values, kind="stable")]


def _first_position(selection: CalibrationSelection) -> str:
    if selection.probe.decoder_tokens is None:
        return "Position 1 is predicted from one token."
    return "Positions are the decoder's; position 1 is predicted from the encoder's input alone."


def _samples(selection: CalibrationSelection) -> int:
    return len(selection.probe.tokens)


def _position_lines(selection: CalibrationSelection, order: list[int], values: np.ndarray) -> go.Figure:
    """One line a row of `values` (candidates, positions), the winner's on top."""
    positions = np.arange(1, values.shape[1] + 1, dtype=np.int32)
    hover = [f"set {index + 1}, position %{{x}}<br>KL %{{y:.3~g}} nats" for index in order]
    figure = _candidate_lines(selection, order, positions, values, hover, marked=len(positions) == 1)
    figure.update_xaxes(title="Token position", showgrid=False, zeroline=False)
    figure.update_yaxes(zeroline=False)
    return figure


def _candidate_lines(
    selection: CalibrationSelection,
    order: list[int],
    places: np.ndarray,
    values: np.ndarray,
    hover: list[str],
    *,
    marked: bool,
    details: np.ndarray | None = None,
) -> go.Figure:
    """One line a row of `values` (candidates, places), the winner's on top.

    Args:
        hover: text of each row.
        marked: draw each value as a mark, joined where there are several.
        details: `customdata` of the rows.
    """
    figure = go.Figure()
    mode = "markers" if len(places) == 1 else "lines+markers" if marked else "lines"
    for row in reversed(range(len(order))):
        winner = order[row] == selection.winner
        figure.add_trace(
            go.Scatter(
                x=places,
                y=values[row].astype(np.float32),
                customdata=None if details is None else details[row].astype(np.float32),
                mode=mode,
                name="winner" if winner else "other sets",
                legendgroup="winner" if winner else "other sets",
                showlegend=winner or row == len(order) - 1,
                legendrank=1 if winner else 2,
                line={"color": WINNER if winner else OTHER, "width": 2.5 if winner else 1},
                opacity=1 if winner else 0.55,
                hovertemplate=f"{hover[row]}<extra></extra>",
            )
        )
    figure.update_layout(height=320, margin=MARGIN, legend=LEGEND, showlegend=True)
    return figure
