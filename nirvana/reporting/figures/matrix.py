"""Heatmaps of calibration text (rows) by evaluation text (columns)."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from nirvana.reporting.figures import theme
from nirvana.reporting.figures.chart import Chart, plus_minus
from nirvana.reporting.figures.names import wrapped_label
from nirvana.reporting.matrix import Label, in_words, row_label
from nirvana.studies.matrix_rows import CalibrationMatrix, Estimate

ROW = 56  # pixels
NOTHING = 0.05  # differences from a text's own model below this share are hardly coloured
READING = (
    "Framed: evaluated on other parts of its calibration text. Within a column, orange is worse than the "
    "framed cell and purple better; colours are linear."
)


def kl_by_text(matrix: CalibrationMatrix, label: Label) -> Chart:
    """KL( dense || pruned ) of every pruned model on the probes of every text."""
    figure = _heatmap(matrix, label, matrix.kl, "KL %{customdata:.3~g} nats")
    return Chart(
        title="What is the KL to the dense model on each text?",
        figure=figure,
        takeaway=_lowest(matrix, label),
        table=matrix_table(matrix, label),
        reading=f"KL in nats per token with its standard error over probe samples. {READING}",
    )


def ratio_by_text(matrix: CalibrationMatrix, label: Label) -> Chart:
    """Perplexity of every pruned model on every text, over the dense model's."""
    figure = _heatmap(matrix, label, matrix.ratio, "%{customdata:.3~f} times the dense perplexity")
    return Chart(
        title="How many times the dense perplexity on each text?",
        figure=figure,
        takeaway=in_words(matrix, label),
        table=matrix_table(matrix, label),
        reading=f"Pruned over dense perplexity, with its standard error over the same windows. {READING}",
    )


def matrix_table(matrix: CalibrationMatrix, label: Label) -> pd.DataFrame:
    """One row a cell."""
    rows = []
    for name in matrix.calibrations:
        mine = [row for row in matrix.rows if row.calibration == name]
        for text, dense in zip(matrix.texts, matrix.dense, strict=True):
            kl, perplexity, ratio = (measure(name, text) for measure in (matrix.kl, matrix.perplexity, matrix.ratio))
            rows.append(
                {
                    "calibrated on": row_label(matrix, name, label),
                    "read on": label(text),
                    "sets": len(mine),
                    "sparsity": float(np.mean([row.sparsity for row in mine])),
                    "KL": kl.value,
                    "KL, standard error": kl.error,
                    "perplexity": perplexity.value,
                    "perplexity, standard error": perplexity.error,
                    "dense perplexity": dense.value,
                    "over dense": ratio.value,
                    "over dense, standard error": ratio.error,
                }
            )
    return pd.DataFrame(rows)


def _heatmap(matrix: CalibrationMatrix, label: Label, measure: Callable[[str, str], Estimate], hover: str) -> go.Figure:
    rows, columns = matrix.calibrations, list(matrix.texts)
    cells = [[measure(name, text) for text in columns] for name in rows]
    values = np.array([[cell.value for cell in line] for line in cells], np.float32)  # (rows, columns)
    excess = np.nan_to_num(values / _own(matrix, values) - 1, posinf=0, neginf=0)
    limit = max(NOTHING, float(np.abs(excess).max(initial=0)))
    dark = np.abs(excess) > 0.6 * limit
    names = [row_label(matrix, name, label) for name in rows]
    figure = go.Figure(
        go.Heatmap(
            z=excess.astype(np.float32),
            zmin=-limit,
            zmax=limit,
            colorscale=theme.DIVERGING,
            reversescale=True,
            showscale=False,
            xgap=2,
            ygap=2,
            hoverinfo="skip",
        )
    )
    y, x = np.indices(values.shape, dtype=np.int32)
    figure.add_trace(
        go.Scatter(
            x=x.ravel(),
            y=y.ravel(),
            mode="text",
            text=[_cell(cell) for line in cells for cell in line],
            textfont={"color": ["white" if each else "#1b1b1b" for each in dark.ravel()], "size": 13},
            customdata=values.ravel(),
            hovertext=[f"calibrated on {escape(name)}<br>evaluated on {escape(label(text))}" for name in names
                       for text in columns],
            hovertemplate=f"%{{hovertext}}<br>{hover}<extra></extra>",
            showlegend=False,
        )
    )  # fmt: skip
    for column, text in enumerate(columns):
        if text in rows:
            _frame(figure, column, rows.index(text))
    figure.update_layout(height=130 + ROW * len(rows), margin={"l": 0, "r": 8, "t": 8, "b": 0})
    figure.update_xaxes(
        title="Read on",
        tickvals=list(range(len(columns))),
        ticktext=[wrapped_label(label(text)) for text in columns],
        autotickangles=[0, 90],
        range=[-0.5, len(columns) - 0.5],
        automargin=True,
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        title="Calibrated on",
        tickvals=list(range(len(rows))),
        ticktext=[wrapped_label(name) for name in names],
        range=[len(rows) - 0.5, -0.5],
        automargin=True,
        showgrid=False,
        zeroline=False,
    )
    return figure


def _own(matrix: CalibrationMatrix, values: np.ndarray) -> np.ndarray:
    """float32 (columns,): in each column the value of the model calibrated on the text, or the mean without one."""
    rows = matrix.calibrations
    return np.array(
        [
            values[rows.index(text), column] if text in rows else values[:, column].mean()
            for column, text in enumerate(matrix.texts)
        ],
        np.float32,
    )


def _frame(figure: go.Figure, column: int, row: int) -> None:
    corners = {"x0": column - 0.48, "x1": column + 0.48, "y0": row - 0.46, "y1": row + 0.46}
    figure.add_shape(type="rect", **corners, line={"color": theme.ATTENTION, "width": 3})


def _cell(estimate: Estimate) -> str:
    """Value over its error, rounded to the error's digits."""
    number, _, error = plus_minus(estimate.value, estimate.error).partition(" ± ")
    return f"{number}<br>± {error}" if error else number


def _lowest(matrix: CalibrationMatrix, label: Label) -> str:
    """Number of texts whose own model is the closest to the dense one."""
    done = [name for name in matrix.texts if name in matrix.calibrations]
    if len(done) < 2:
        return "A comparison needs the rows of two texts."
    own = 0
    worst, gap = ("", ""), -math.inf
    for text in done:
        values = {name: matrix.kl(name, text).value for name in done}
        own += min(values, key=lambda name: values[name]) == text
        name = max(values, key=lambda name: values[name])
        if values[name] - values[text] > gap:
            worst, gap = (name, text), values[name] - values[text]
    words = f"On {own} of {len(done)} texts, the model calibrated on that text is the closest to the dense one."
    if gap > 0:
        name, text = worst
        words += f" The largest difference: on {label(text)}, KL is {plus_minus(gap, None)} nats higher when "
        words += f"calibrated on {label(name)}."
    return words
