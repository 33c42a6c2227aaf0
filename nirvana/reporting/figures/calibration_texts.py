"""Candidates of a choice by text."""

from __future__ import annotations

from html import escape
from itertools import groupby

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.calibration.sets import CalibrationSelection
from nirvana.reporting.contests import paired_mean
from nirvana.reporting.figures.allocation import LEGEND
from nirvana.reporting.figures.calibration import OTHER, WINNER
from nirvana.reporting.figures.chart import Chart, count, plus_minus
from nirvana.reporting.figures.names import wrapped_label

ROW = 52  # pixels


def by_text(selection: CalibrationSelection) -> Chart:
    """The mean KL of each seed, one row a text, the text with the lowest average on top."""
    table = text_table(selection)
    names = [str(name) for name in table["text"]]
    best = selection.calibration
    figure = go.Figure()
    for row, indices in enumerate(table["sets"]):
        means = np.array([selection.candidates[index - 1].divergence.mean for index in indices], np.float32)
        errors = [selection.candidates[index - 1].divergence.standard_error for index in indices]
        mine = selection.candidates[indices[0] - 1].calibration.source_hash == best.source_hash
        places = row + (np.arange(len(indices)) - (len(indices) - 1) / 2) * min(0.16, 0.7 / len(indices))
        figure.add_trace(
            go.Scatter(
                x=means,
                y=places.astype(np.float32),
                error_x={"array": np.nan_to_num(errors).astype(np.float32), "thickness": 1, "width": 3},
                customdata=np.array(indices, np.int32),
                text=[
                    f"{escape(names[row])}, seed {selection.candidates[index - 1].calibration.seed}"
                    for index in indices
                ],
                mode="markers",
                name="text of the winner" if mine else "other texts",
                legendgroup=str(mine),
                showlegend=mine or not any(trace.legendgroup == "False" for trace in figure.data),
                marker={"color": WINNER if mine else OTHER, "size": 9},
                hovertemplate="%{text} (set %{customdata})<br>mean KL %{x:.4~g} nats<extra></extra>",
            )
        )
    figure.update_layout(height=130 + ROW * len(names), margin={"l": 0, "r": 8, "t": 8, "b": 0}, legend=LEGEND)
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[wrapped_label(name) for name in names],
        range=[len(names) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
        automargin=True,
    )
    figure.update_xaxes(title="Mean KL, nats", zeroline=False)
    return Chart(
        title="Which text prunes best?",
        figure=figure,
        takeaway=_takeaway(selection, table),
        table=table.assign(sets=[", ".join(map(str, sets)) for sets in table["sets"]]),
        reading=(
            "Each point is one set, with one standard error over the probe samples, drawn uniformly from all texts. "
            "Linear axis."
        ),
    )


def text_table(selection: CalibrationSelection) -> pd.DataFrame:
    """One row a text, lowest average of its sets first: average, spread over seeds, and the numbers of its sets."""
    drawn = [(each.calibration.source_hash, index) for index, each in enumerate(selection.candidates)]
    rows = []
    for _, group in groupby(drawn, key=lambda pair: pair[0]):
        indices = [index for _, index in group]
        means = [selection.candidates[index].divergence.mean for index in indices]
        rows.append(
            {
                "text": selection.candidates[indices[0]].calibration.source,
                "mean KL": float(np.mean(means)),
                "lowest": min(means),
                "highest": max(means),
                "sets": [index + 1 for index in sorted(indices, key=lambda index: means[indices.index(index)])],
            }
        )
    return pd.DataFrame(rows).sort_values("mean KL", kind="stable", ignore_index=True)


def _takeaway(selection: CalibrationSelection, table: pd.DataFrame) -> str:
    """The best two texts, and whether their averages over seeds differ significantly on the same probes."""
    first, second = table.iloc[0], table.iloc[1]
    values = [
        np.mean([selection.candidates[index - 1].divergence.per_sample for index in row["sets"]], axis=0)
        for row in (first, second)
    ]
    text = f"{first['text']}, averaged over {count(len(first['sets']), 'set')}"
    if len(values[0]) < 2:
        return f"{text}; with one probe sample its significance is unknown."
    found = paired_mean(values[1], values[0])
    error = float((values[1] - values[0]).std(ddof=1) / np.sqrt(len(values[0])))
    words = f"{second['text']}, the next, is {plus_minus(found.value, error)} nats higher on the same probes"
    return f"{text}: {words}, which is {'more than' if found.side > 0 else 'within'} noise."
