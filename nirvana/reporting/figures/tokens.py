"""Token statistics of a calibration set."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.calibration.sets import CalibrationSet
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.allocation import MARGIN
from nirvana.reporting.figures.chart import Chart, count


def token_frequencies(calibration: CalibrationSet) -> Chart:
    """How often each token of the set occurs, most frequent first, on log axes."""
    tokens = calibration.tokens[_counted(calibration)]
    ids, counts = np.unique(tokens, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    ids, counts = ids[order], counts[order]
    ranks = np.arange(1, len(ids) + 1, dtype=np.int32)
    drawn = np.unique(np.geomspace(1, len(ids), min(len(ids), 512)).round().astype(np.int32)) - 1
    figure = go.Figure(
        go.Scatter(
            x=ranks[drawn],
            y=counts[drawn].astype(np.int32),
            customdata=ids[drawn].astype(np.int32),
            mode="lines+markers",
            line={"color": theme.ATTENTION, "width": 1.5},
            marker={"size": 4},
            hovertemplate="token %{customdata}, number %{x:,}<br>%{y:,} times<extra></extra>",
        )
    )
    figure.update_layout(height=300, margin=MARGIN)
    figure.update_xaxes(title="Different tokens, most frequent first (log)", type="log", showgrid=False, dtick=1)
    figure.update_yaxes(title="Occurrences (log)", type="log", dtick=1)
    once = int((counts == 1).sum())
    return Chart(
        title="How varied are the tokens?",
        figure=figure,
        takeaway=f"{count(len(tokens), 'token')}, {len(ids):,} of them different; {once:,} occur once, and the most "
        f"frequent makes up {counts[0] / len(tokens):.1%}.",
        table=pd.DataFrame({"rank": ranks, "token id": ids, "count": counts, "share": counts / len(tokens)}),
        reading="Natural text falls along a nearly straight line. Log axes.",
    )


def sample_variety(calibration: CalibrationSet) -> Chart:
    """How many different tokens each sample holds."""
    kept = _counted(calibration)
    rows = [calibration.tokens[sample][kept[sample]] for sample in range(calibration.samples)]
    different = np.array([len(np.unique(row)) for row in rows], np.int32)
    lengths = np.array([len(row) for row in rows], np.int32)
    samples = np.arange(1, calibration.samples + 1, dtype=np.int32)
    figure = go.Figure(
        go.Bar(
            x=samples,
            y=different,
            customdata=lengths,
            marker={"color": theme.ATTENTION, "line": {"width": 0}},
            hovertemplate="sample %{x}<br>%{y:,} different of %{customdata:,} tokens<extra></extra>",
        )
    )
    figure.update_layout(height=300, margin=MARGIN, bargap=0.2 if len(samples) <= 128 else 0)
    figure.update_xaxes(title="Sample", showgrid=False, zeroline=False)
    figure.update_yaxes(title="Different tokens", zeroline=False)
    fewest, most = int(np.argmin(different)), int(np.argmax(different))
    takeaway = (
        f"From {different[fewest]:,} in sample {fewest + 1} to {different[most]:,} in sample {most + 1}; "
        f"the median is {np.median(different):,.0f}."
        if different[fewest] < different[most]
        else f"Each of {count(len(samples), 'sample')} holds {different[0]:,}."
    )
    return Chart(
        title="How many different tokens does each sample hold?",
        figure=figure,
        takeaway=takeaway,
        table=pd.DataFrame({"sample": samples, "different tokens": different, "tokens": lengths}),
        reading="A low bar is text that repeats itself, such as a table or a list.",
    )


def _counted(calibration: CalibrationSet) -> np.ndarray:
    """(N, T) bool: the tokens that are not padding."""
    if calibration.mask is None:
        return np.ones(calibration.tokens.shape, bool)
    return np.asarray(calibration.mask > 0)
