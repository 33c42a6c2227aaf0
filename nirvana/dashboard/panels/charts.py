"""A chart on a page: question, answer, figure, explanation and data."""

from __future__ import annotations

from typing import Any, Literal

import plotly.graph_objects as go
import streamlit as st

from nirvana.calibration.sets import CalibrationSelection
from nirvana.dashboard import lecture
from nirvana.dashboard.panels.page import table_and_csv
from nirvana.reporting.figures.chart import Chart
from nirvana.runs.store import Run
from nirvana.saliency.scores import Saliency

Height = Literal["content", "stretch"]
LABELS = 14  # pixels; smaller ones are not read from the back of a room
BAR = 36  # pixels above the data for the buttons that appear over a chart
UNUSED = ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"]
CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": UNUSED}


class Stated(str):
    """A protocol that the page states once, so that its charts have it beside their numbers only."""


def show_chart(key: str, chart: Chart, protocol: str = "", *, clickable: bool = False) -> None:
    """Draw `chart` under widget key `key`; its table and CSV follow under `<key>.table`.

    `protocol` names e.g. model, criterion and calibration set; it stands beside the numbers too. With `clickable`, a
    click reruns the page and `clicked` reads it.
    """
    if lecture.is_on():
        if lecture.is_shown(key):
            with lecture.slide(key):
                _draw(key, chart, lecture.LABELS, clickable, height="stretch")
        return
    _draw(key, chart, LABELS, clickable)
    caption = [chart.reading, "" if isinstance(protocol, Stated) else protocol]
    if any(caption):
        st.caption(" ".join(filter(None, caption)))
    table_and_csv(f"{key}.table", chart.table, protocol)


def _draw(key: str, chart: Chart, labels: int, clickable: bool, height: Height = "content") -> None:
    """Title, answer and figure."""
    st.markdown(f"#### {chart.title}")
    st.markdown(chart.takeaway)
    figure = legible(chart.figure, labels)
    if height == "stretch":
        figure.update_layout(height=None, autosize=True)
    if clickable:
        st.plotly_chart(
            figure, key=key, config=CONFIG, alt=chart.alt, height=height, on_select="rerun", selection_mode="points"
        )
    else:
        st.plotly_chart(figure, key=key, config=CONFIG, alt=chart.alt, height=height)


def legible(figure: go.Figure, labels: int = LABELS) -> go.Figure:
    """`figure` with labels of at least `labels` pixels, which Streamlit's theme does not change, and room above the
    data for the buttons.
    """
    font = {"font": {"size": labels}}
    axis = {"tickfont": {"size": labels}, "title": font}
    axes = {"xaxis", "yaxis", *(name for name in figure.layout if name.startswith(("xaxis", "yaxis")))}
    top = {"t": max(figure.layout.margin.t or 0, BAR)}
    # One call, since each takes milliseconds.
    figure.update_layout(font | {"legend": font, "hoverlabel": font, "margin": top} | dict.fromkeys(axes, axis))
    return figure


def clicked(key: str) -> dict[str, Any] | None:
    """The point of the chart `key` that was clicked since the last call, else None.

    Call it before the widgets that the click should set.
    """
    event = st.session_state.get(key)
    points = list(event["selection"]["points"]) if event else []
    seen = f"{key}.seen"
    if points == st.session_state.get(seen, []):
        return None
    st.session_state[seen] = points
    return points[0] if points else None


def scores_protocol(run: Run, scores: Saliency) -> Stated:
    """Protocol of scores, e.g. "smollm2-135m, nirvana, calibration set 3f2a91c0, 4,096 tokens (4-bit origin)."."""
    card = run.model()
    parts = [card.name if card else scores.layout.architecture, scores.criterion]
    chosen = run.calibration()
    calibration = chosen.calibration if isinstance(chosen, CalibrationSelection) else chosen
    if scores.calibration_hash:
        parts.append(f"calibration set {scores.calibration_hash[:8]}")
        if calibration is not None and calibration.hash == scores.calibration_hash:
            read = f"{calibration.tokens.size:,} tokens"
            parts.append(f"{read}, {calibration.task}" if calibration.task else read)
    return Stated(", ".join(parts) + (f" ({card.note})." if card and card.note else "."))
