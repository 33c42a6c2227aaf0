"""Calibration text against evaluation text, on the Calibration page."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nirvana.calibration.corpora.mixture import part_names
from nirvana.calibration.corpora.registry import AVAILABLE
from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.corpora import corpus_label, corpus_options
from nirvana.dashboard.panels.messages import show_error
from nirvana.errors import NirvanaError
from nirvana.reporting.figures import matrix as figures
from nirvana.reporting.figures.chart import count
from nirvana.reporting.matrix import command_line, describe, is_current, matrix_seconds, python_code, rows_to_do
from nirvana.reporting.text import duration, plain
from nirvana.runs.store import EXAMPLE
from nirvana.studies.matrix import MOST, MOST_SEEDS, check_texts
from nirvana.studies.matrix_rows import CalibrationMatrix, read_matrix

TEXTS, MIXTURE, SEEDS = "calibration.matrix.texts", "calibration.matrix.mixture", "calibration.matrix.seeds"
POLL = 1.0  # seconds


def transfer(now: state.Context) -> None:
    """Whether what was chosen on one text holds on others: the controls, and the matrix as far as it is there."""
    st.markdown("### Does the choice carry over to other text?")
    st.markdown(
        "The paper claims that calibration is **task-agnostic**: what is pruned away with one text is not missed on "
        "another. Here the model is pruned once with a set from each text, and every pruned model reads all of the "
        "texts. If the claim holds on this model, the numbers within a column hardly differ."
    )
    found = read_matrix(now.run.folder)
    asked = _controls(now, found)
    _start(now, found, asked)
    if now.job is not None and now.job.task == "matrix":
        st.fragment(_watch, run_every=POLL)(now.run.id, len(found.rows) if found else 0)
    if found is None or not found.rows:
        st.caption("Nothing was measured yet. Two heatmaps will be here, row by row as the models are pruned.")
    else:
        _results(now, found, asked)
    with st.expander("Show the matrix as code", icon=":material/code:", key="calibration.matrix.code"):
        python, line = st.tabs(["Python", "Command line"], key="calibration.matrix.code.tabs")
        python.code(python_code(now.recipe, asked), language="python", wrap_lines=True)
        line.code(command_line(now.recipe, asked), language="bash", wrap_lines=True)


def _controls(now: state.Context, found: CalibrationMatrix | None) -> dict[str, Any]:
    """What to measure, starting from the run's matrix, or from the texts of its recipe; the arguments of the task."""
    if TEXTS not in st.session_state:
        st.session_state[TEXTS] = list(found.texts) if found else _texts(now)
    st.session_state.setdefault(MIXTURE, True)
    st.session_state.setdefault(SEEDS, len(found.seeds(found.texts[0])) or 1 if found else 1)
    options = corpus_options(*st.session_state[TEXTS])
    st.session_state[TEXTS] = [name for name in st.session_state[TEXTS] if name in options]
    left, right = st.columns([3, 1])
    texts = left.multiselect(
        "Texts to calibrate on and to read",
        options,
        key=TEXTS,
        format_func=corpus_label,
        max_selections=MOST,
        placeholder="Choose two or more",
        help="Calibration, probe and evaluation parts of a text are separate documents of it.",
    )
    seeds = right.number_input(
        "Sets of each text",
        min_value=1,
        max_value=MOST_SEEDS,
        step=1,
        key=SEEDS,
        help="Results are averaged over them. One set is quick; with several, less of the difference is luck.",
    )
    mixture = st.toggle(
        "Calibrate on equal shares of all as well",
        key=MIXTURE,
        help="One more row: a mixture has less of each text, and some of every one.",
    )
    texts = [name for name in texts if name in options]  # a browser can send anything
    return {"corpora": texts, "mixture": bool(mixture), "seeds": int(seeds)}


def _texts(now: state.Context) -> list[str]:
    """Texts that the recipe names and that can be had here, two at least."""
    named = [
        part for name in (*now.recipe.calibration.texts, *now.recipe.evaluation.corpora) for part in part_names(name)
    ]
    offline = [name for name, info in AVAILABLE.items() if info.offline and name != "self-generated"]
    found = list(dict.fromkeys(named))
    return (found if len(found) > 1 else list(dict.fromkeys([*found, *offline])))[:MOST]


def _start(now: state.Context, found: CalibrationMatrix | None, asked: dict[str, Any]) -> None:
    """What it will take, and the button."""
    try:
        check_texts(asked["corpora"], asked["mixture"], asked["seeds"])
    except NirvanaError as error:
        if asked["corpora"]:
            show_error(error)
        st.button("Measure", key="calibration.matrix.run", disabled=True)
        return
    rows = rows_to_do(found, now.recipe, asked)
    started = found is not None and is_current(found, now.recipe, asked) and bool(found.rows)
    if rows:
        words = (
            f"Prunes {count(rows, 'model')}{' more' if started else ''} as the Saliency, Allocation and Prune pages "
        )
        words += f"say, and reads {count(len(asked['corpora']), 'text')} with each"
        seconds = matrix_seconds(found, now.recipe, asked, now.run, [now.store.open(EXAMPLE)])
        words += f": about {duration(seconds)}, by what it took before." if seconds else "."
    else:
        words = "This choice is measured."
    st.caption(words)
    if st.button(
        "Go on" if started and rows else "Measure" if rows else "The matrix is current",
        key="calibration.matrix.run",
        icon=":material/grid_view:",
        disabled=now.job is not None or not rows,
        help="Every row is kept as soon as it is finished.",
    ):
        state.start_study("matrix", now.recipe, **asked)


def _results(now: state.Context, found: CalibrationMatrix, asked: dict[str, Any]) -> None:
    if now.job is None and not is_current(found, now.recipe, asked):
        st.warning("What follows belongs to earlier choices. Measure again to bring it up to date.")
    protocol = plain(describe(found.protocol, found.seeds(found.calibrations[0])))
    show_chart("calibration.matrix.ratio", figures.ratio_by_text(found, corpus_label), protocol)
    show_chart("calibration.matrix.kl", figures.kl_by_text(found, corpus_label), protocol)


def _watch(run_id: str, known: int) -> None:
    """Rerun the page when another row is finished."""
    try:
        found = read_matrix(state.store().open(run_id).folder)
    except NirvanaError:  # deleted in another tab
        st.rerun()
    rows = len(found.rows) if found else 0
    if rows != known:
        st.rerun()
    st.caption(f"{count(rows, 'row')} finished.")
