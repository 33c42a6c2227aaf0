"""Calibration text against evaluation text, on the Calibration page."""

from __future__ import annotations

import streamlit as st

from nirvana.calibration.corpora.mixture import part_names
from nirvana.calibration.corpora.registry import AVAILABLE
from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.corpora import corpus_label, corpus_options
from nirvana.dashboard.panels.fields import whole_number
from nirvana.dashboard.study_panel import StudyPanel
from nirvana.reporting.estimates import in_words
from nirvana.reporting.figures import matrix as figures
from nirvana.reporting.figures.chart import count
from nirvana.reporting.matrix import command_line, describe, is_current, matrix_seconds, python_code, rows_to_do
from nirvana.reporting.text import plain
from nirvana.runs.pace import read_pace
from nirvana.studies.matrix import MOST, Matrix, MatrixRequest
from nirvana.studies.matrix_rows import CalibrationMatrix, read_matrix

TEXTS, MIXTURE, SEEDS = "calibration.matrix.texts", "calibration.matrix.mixture", "calibration.matrix.seeds"
PANEL = StudyPanel(Matrix(), "calibration.matrix", "row", lambda run: _seconds(read_matrix(run.folder)))


def transfer(now: state.Context) -> None:
    """The controls of the matrix, and its finished rows."""
    st.markdown("### Does the choice transfer to other text?")
    st.markdown(
        "The paper claims that calibration is **task-agnostic**: a model pruned with one text is as good on "
        "another. Here the model is pruned with a set from each text, and every pruned model is measured on "
        "all texts. If the claim holds on this model, the numbers within a column hardly differ."
    )
    found = read_matrix(now.run.folder)
    request = _controls(now, found)
    _start(now, None if now.run.is_example else found, request)
    PANEL.watch(now)
    if found is None or not found.rows:
        st.caption("No measurements yet. Two heatmaps will appear here, row by row.")
    else:
        _results(now, found, request)
    PANEL.code(python_code(now.recipe, request), command_line(now.recipe, request))


def _controls(now: state.Context, found: CalibrationMatrix | None) -> MatrixRequest:
    """Controls of the matrix, starting from the run's matrix, or from the texts of its recipe."""
    if TEXTS not in st.session_state:
        st.session_state[TEXTS] = list(found.texts) if found else _texts(now)
    st.session_state.setdefault(MIXTURE, True)
    st.session_state.setdefault(SEEDS, len(found.seeds(found.texts[0])) or 1 if found else 1)
    options = corpus_options(*st.session_state[TEXTS])
    st.session_state[TEXTS] = [name for name in st.session_state[TEXTS] if name in options]
    left, right = st.columns([3, 1])
    texts = left.multiselect(
        "Texts to calibrate and measure on",
        options,
        key=TEXTS,
        format_func=corpus_label,
        max_selections=MOST,
        placeholder="Choose two or more",
        help="Calibration, probe and evaluation splits of a text are separate documents.",
    )
    with right:
        seeds = whole_number(
            "Sets of each text",
            MatrixRequest(),
            "seeds",
            key=SEEDS,
            help="Results are averaged over them. More sets reduce the calibration-sampling variance.",
        )
    mixture = st.toggle(
        "Also calibrate on a uniform mixture of all",
        key=MIXTURE,
        help="Adds a row, with fewer samples of each text.",
    )
    texts = [name for name in texts if name in options]  # a browser can send any value
    return MatrixRequest(corpora=tuple(texts), mixture=bool(mixture), seeds=seeds)


def _texts(now: state.Context) -> list[str]:
    """Available texts of the recipe, at least two."""
    named = [
        part for name in (*now.recipe.calibration.texts, *now.recipe.evaluation.corpora) for part in part_names(name)
    ]
    offline = [name for name, info in AVAILABLE.items() if info.offline and name != "self-generated"]
    found = list(dict.fromkeys(named))
    return (found if len(found) > 1 else list(dict.fromkeys([*found, *offline])))[:MOST]


def _start(now: state.Context, found: CalibrationMatrix | None, request: MatrixRequest) -> None:
    """Estimated cost, and the button."""
    if not PANEL.is_valid(now, request, now.recipe, "Measure", quiet=not request.corpora):
        return
    rows = rows_to_do(found, now.recipe, request)
    started = found is not None and is_current(found, now.recipe, request) and bool(found.rows)
    caption = "This choice is measured."
    if rows:
        seconds = matrix_seconds(found, now.recipe, request, read_pace(now.recipe.model))
        caption = (
            f"Prunes {count(rows, 'model')}{' more' if started else ''} with the choices of the Saliency, Allocation "
            f"and Prune pages, and measures each on {count(len(request.corpora), 'text')}"
        )
        caption += f": {in_words(seconds)}."
    PANEL.start(
        now,
        request,
        now.recipe,
        label="Continue" if started and rows else "Measure" if rows else "The matrix is current",
        caption=caption,
        help="Every finished row is kept.",
        complete=not rows,
        kind="secondary",
    )


def _results(now: state.Context, found: CalibrationMatrix, request: MatrixRequest) -> None:
    if now.job is None and not is_current(found, now.recipe, request):
        st.warning("What follows belongs to earlier choices. Measure again to bring it up to date.")
    protocol = plain(describe(found.protocol, found.seeds(found.calibrations[0])))
    show_chart("calibration.matrix.ratio", figures.ratio_by_text(found, corpus_label), protocol)
    show_chart("calibration.matrix.kl", figures.kl_by_text(found, corpus_label), protocol)
    PANEL.failures([(f"{row.calibration}, seed {row.seed}", row.failure) for row in found.failed])


def _seconds(found: CalibrationMatrix | None) -> list[float]:
    return [row.seconds for row in (*found.rows, *found.failed)] if found else []
