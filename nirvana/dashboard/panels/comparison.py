"""Comparison of runs on the Compare page."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.errors import NirvanaError
from nirvana.files import strict
from nirvana.reporting.comparison import SIZES, Comparison, compare_runs
from nirvana.reporting.estimates import expected_seconds, in_words, summed
from nirvana.reporting.figures import comparison as figures
from nirvana.reporting.figures import theme
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import moment, plain
from nirvana.runs.pace import read_pace
from nirvana.runs.run import Run
from nirvana.runs.store import EXAMPLE

BESIDE, LINE = "compare.beside", "compare.line"
KEPT = "nirvana.beside"  # kept while other pages are open
TABS, OTHER_RUNS = "compare.tabs", "Other runs"  # the tab of this comparison
WITH = "with"  # query parameter: ids of the runs compared with the open one
COLOURS = {"better": theme.MLP, "worse": theme.REMOVED, "otherwise": theme.NEUTRAL}
ALIKE = "compare.alike"


def set_beside(run_ids: Sequence[str]) -> None:
    """Open the first run, compare the others with it, and switch to the Compare page."""
    first, *others = run_ids
    state.open_run(first)
    st.session_state[BESIDE] = others
    st.session_state[TABS] = OTHER_RUNS
    st.switch_page("pages/compare.py")


def side_by_side(now: state.Context) -> None:
    """Choice of runs to compare with the open one, and their aligned measurements."""
    names = _offered(now)
    if BESIDE not in st.session_state:
        asked = st.query_params.get(WITH, "").split(",") if WITH in st.query_params else st.session_state.get(KEPT, [])
        st.session_state[BESIDE] = list(asked)
    st.session_state[BESIDE] = [run_id for run_id in st.session_state[BESIDE] if run_id in names]
    chosen = st.multiselect(
        "Runs to compare with this one",
        list(names),
        key=BESIDE,
        format_func=lambda run_id: names[run_id],
        placeholder="Choose runs" if names else "There is no other run yet",
        help="Any runs, including points of sweeps. The address of this page names them.",
    )
    st.session_state[KEPT] = list(chosen)
    if chosen:
        st.query_params[WITH] = ",".join(chosen)
    elif WITH in st.query_params:
        del st.query_params[WITH]
    if not chosen:
        st.caption("Choose one run or more: their measurements are aligned, and a winner is named where it is clear.")
        return
    runs = [now.run, *_opened(now, chosen)]
    found = compare_runs(runs)
    _notes(found, now)
    _differences(found, runs)
    _table(found)
    _measure_alike(found, runs)
    _downloads(found)
    _chart(found)


def _offered(now: state.Context) -> dict[str, str]:
    """Id -> name of every run that can be compared with the open one; points of a sweep after its run."""
    runs = [each for run in state.visible_runs() for each in (run, *now.store.children(run.id))]
    example = now.store.open(EXAMPLE)
    runs += [example] if example.model() is not None else []
    return {run.id: f"{run.name} · {moment(run.created)}" for run in runs if run.id != now.run.id}


def _opened(now: state.Context, ids: Sequence[str]) -> list[Run]:
    found = []
    for run_id in ids:
        try:
            found.append(now.store.open(run_id))
        except NirvanaError:  # deleted in another tab
            continue
    return found


def _notes(found: Comparison, now: state.Context) -> None:
    """Texts on which another criterion is better than NIRVANA, and runs without current numbers."""
    if found.findings:
        st.warning(
            "**Another criterion is better than NIRVANA here.**\n" + "\n".join(f"- {plain(t)}" for t in found.findings),
            icon=":material/trending_down:",
        )
    for column in found.columns:
        if column.state == "measured":
            continue
        if now.jobs.live(column.run_id) is not None:
            st.info(f"**{plain(column.heading)}** is being measured.", icon=":material/hourglass_top:")
            continue
        stale = "its numbers belong to earlier choices and are not compared"
        hint = stale if column.state == "stale" else "it has no numbers yet"
        st.info(f"**{plain(column.heading)}** is {column.state}: {hint}. Open it and measure its models.")


def _differences(found: Comparison, runs: Sequence[Run]) -> None:
    table = figures.recipe_table({column.heading: run.recipe for column, run in zip(found.columns, runs, strict=True)})
    with st.expander("Settings that differ", icon=":material/difference:", key="compare.differences"):
        if table.empty:
            st.markdown("None: all runs have the same recipe.")
        else:
            st.dataframe(
                table,
                hide_index=True,
                key="compare.differences.table",
                column_config={"choice": st.column_config.TextColumn(pinned=True)},
            )


def _table(found: Comparison) -> None:
    st.markdown("#### Measurements")
    table, marks = figures.shown_table(found), figures.directions(found)
    colours = marks.map(lambda mark: f"color: {COLOURS[mark]}" if mark else "")
    st.dataframe(
        table.style.apply(lambda _: colours, axis=None),
        hide_index=True,
        key="compare.many",
        placeholder="",
        height="content",
        column_config={
            "measured": st.column_config.TextColumn("Measured", pinned=True),
            "winner": st.column_config.TextColumn("How compared"),
        },
    )
    st.caption(
        "Dense → pruned or recovered ± one standard error, and the change to the run's own dense model: green for "
        "the better, vermilion for the worse. ★: better than every other run of equal protocol; the 95 % intervals "
        "of all differences exclude zero. Differences are paired where both runs have the same windows, probes or "
        "items."
    )


def _measure_alike(found: Comparison, runs: Sequence[Run]) -> None:
    """Protocols of the grey numbers, and a button that measures those runs like the first."""
    lines = [
        f"- ≠ **{plain(column.heading)}**: {', '.join(map(plain, column.differs))}"
        for column in found.columns
        if column.differs
    ]
    if lines:
        words = "These runs were measured differently from the first. Their numbers, in grey, are not compared."
        st.info("\n".join([words, *lines]), icon=":material/straighten:")
    first, *others = runs
    choice = first.recipe.evaluation
    different = [run for run in others if run.recipe.evaluation != choice]
    if not different:
        return
    seconds = summed(
        expected_seconds("evaluate", run.recipe.with_values(evaluation=choice), read_pace(run.recipe.model))
        for run in different
    )
    st.button(
        f"Measure {count(len(different), 'run')} like the first",
        key=ALIKE,
        icon=":material/straighten:",
        on_click=_measure,
        args=(runs,),
        help=f"Up to {choice.max_tokens:,} tokens of each text in windows of {choice.window:,}, and the same tasks. "
        "Each gets a new run with all results of the earlier steps; the runs above keep their numbers. In all: "
        f"{in_words(seconds)}.",
    )


def _measure(runs: Sequence[Run]) -> None:
    """Queue the jobs, and replace the old runs by the new ones."""
    try:
        st.session_state[BESIDE] = state.measure_alike(runs[0], runs[1:])
    except NirvanaError as error:
        st.session_state[state.PROBLEM] = error


def _downloads(found: Comparison) -> None:
    with st.container(horizontal=True):
        st.download_button(
            "Download CSV",
            data=lambda: _csv(figures.number_table(found)),
            file_name="runs.csv",
            mime="text/csv",
            key="compare.many.csv",
            icon=":material/download:",
            on_click="ignore",
        )
        st.download_button(
            "Download JSON",
            data=lambda: json.dumps(strict(found.to_json()), indent=1),
            file_name="runs.json",
            mime="application/json",
            key="compare.many.json",
            icon=":material/download:",
            on_click="ignore",
        )


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


def _chart(found: Comparison) -> None:
    lines = {figures.title(line): line for line in found.lines if line.metric not in SIZES}
    if not lines:
        return
    if st.session_state.get(LINE) not in lines:
        st.session_state[LINE] = next(iter(lines))
    name = st.selectbox("Draw", list(lines), key=LINE)
    line = lines[name]
    protocol = next((cell.protocol for cell in line.cells if cell is not None and cell.alike), "")
    show_chart("compare.many_chart", figures.line_chart(found, line), f"{protocol}.")
