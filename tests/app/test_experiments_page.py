"""The Experiments page: recorded results, every observation in a real run, exercises."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard import state
from nirvana.runs.store import Run, Store
from nirvana.studies.sweep_rows import read_rows
from nirvana.teaching.experiments import experiment as module
from nirvana.teaching.experiments.healing import BUDGET
from nirvana.teaching.experiments.registry import EXPERIMENTS
from tests.app.conftest import keys_on, open_tab
from tests.app.test_compare_page import words
from tests.app.test_journey import wait
from tests.journals import write_sweep
from tests.unit.test_experiments import SEEN, UNSEEN, rows_of

Start = Callable[..., AppTest]
# A real run of tiny-llama with little text: a few seconds a point.
QUICK = {
    "calibration": {"samples": 8, "length": 256, "probe_samples": 16, "probe_length": 256},
    "evaluation": {"corpora": ("python-docs",), "window": 512, "max_tokens": 2048},
}


def open_page(start: Start, run: Run | None = None, name: str = "") -> AppTest:
    app = start(run)
    app.switch_page("pages/experiments.py").run()
    if name:
        app.radio(key="experiments.choice").set_value(name).run()
    assert not app.exception
    return app


def put_rows(store: Store, name: str, appeared: bool = True, points: int | None = None, failed: bool = False) -> Run:
    """A run with made-up rows of an experiment."""
    experiment = EXPERIMENTS[name]
    run = store.create(experiment.recipe(), name="Class")
    write_sweep(run, grid=experiment.grid)
    for row in rows_of(experiment, *(SEEN[name] if appeared else UNSEEN[name][0]))[:points]:
        point = store.create(row.point.recipe(run.recipe), name=row.point.label, study=run)
        made = vars(row) | {"run_id": point.id, "fingerprint": point.recipe.fingerprint("evaluate"), "seconds": 2.0}
        write_sweep(run, [type(row)(**made)])
    if failed:
        write_sweep(run, [replace(row, values={}, failure="Out of reach.", fingerprint=made["fingerprint"])])
    return run


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_shows_its_recorded_result_first(name: str, start: Start) -> None:
    app = open_page(start, name=name)
    text = words(app)
    assert app.query_params["experiment"] == name and f"experiments.{name}" in keys_on(app)
    assert "Look for" in text and "The observation appears" in text and "Recorded on cpu, float32" in text
    assert not app.button(key="experiments.run").disabled


def test_the_recorded_result_of_the_larger_model(start: Start) -> None:
    app = open_page(start, name="attention")
    app.segmented_control(key="experiments.model").set_value("smollm2-135m").run()
    text = words(app)
    assert "The observation appears" in text and "4-bit origin" in text and "smollm2-135m" in text


def test_a_link_opens_an_experiment_and_a_bad_one_the_first(start: Start) -> None:
    for asked, opened in (("healing", "healing"), ("nothing", "magnitude")):
        app = start()
        app.query_params["experiment"] = asked
        app.switch_page("pages/experiments.py").run()
        assert app.radio(key="experiments.choice").value == opened == app.query_params["experiment"]


@pytest.mark.usefixtures("worker_here")
def test_the_observation_appears_in_a_real_run(start: Start, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One experiment, or all where NIRVANA_SLOW_TESTS is set; the recorded results above are real runs too."""
    monkeypatch.setattr(module, "SMALL", QUICK)
    monkeypatch.setitem(BUDGET, "tokens", 6144)
    app = open_page(start)
    for name in EXPERIMENTS if os.environ.get("NIRVANA_SLOW_TESTS") else ("attention",):
        experiment = EXPERIMENTS[name]
        app.radio(key="experiments.choice").set_value(name).run()
        assert "Recorded on" not in words(app), "the recorded rows have other settings"
        app.button(key="experiments.run").click().run()
        job = wait(app)
        assert job.status == "done" and job.result is not None and job.result["failed"] == 0, app.error
        text = words(app)
        assert "The observation appears" in text and "Measured here" in text, name
        run = store.open(app.query_params["run"])
        rows = read_rows(run)
        finding = experiment.judge(rows)
        assert run.name == f"Experiment: {experiment.title}" and len(rows) == len(experiment.grid.points())
        assert finding is not None and finding.appeared and app.button(key="experiments.run").disabled
    state.jobs().unload()


def test_own_rows_come_before_the_recorded_ones_and_say_when_nothing_appears(start: Start, store: Store) -> None:
    run = put_rows(store, "gamma", appeared=False)
    app = open_page(start, name="gamma")
    text = words(app)
    assert "The observation does not appear here" in text and "0.1 nats at equal rates" in text
    assert app.button(key="experiments.run").label == "Measured"
    app.segmented_control(key="experiments.source").set_value("recorded").run()
    assert "The observation appears" in words(app)
    open_tab(app, "As a sweep")
    app.button(key="experiments.sweep").click().run()
    assert not app.exception and app.query_params["run"] == run.id and app.title[0].value == "Sweep"


def test_a_stopped_experiment_continues(start: Start, store: Store) -> None:
    put_rows(store, "gamma", points=3)
    app = open_page(start, name="gamma")
    assert app.button(key="experiments.run").label == "Continue: 4 points to go"
    assert "3 points are measured, 4 are left." in words(app)


def test_exercises_are_checked_as_the_plan_and_the_answers_change(start: Start) -> None:
    app = open_tab(open_page(start), "Exercises")
    text = words(app)
    assert "attention loses 5.6%" in text and not app.success
    app.number_input(key="exercises.groups").set_value(80).run()
    assert "Not yet" in words(app) and not app.success
    app.number_input(key="exercises.groups").set_value(90).run()
    assert len(app.success) == 1
    app.switch_page("pages/allocation.py").run()
    app.select_slider(key="allocation.gamma").set_value(50.0).run()
    app.switch_page("pages/experiments.py").run()
    app = open_tab(app, "Exercises")
    assert any("the MLP pays all" in box.value for box in app.success)


def test_exercises_without_scores_offer_the_example(start: Start, store: Store) -> None:
    run = store.create(EXPERIMENTS["gamma"].recipe(), name="New")
    app = open_tab(open_page(start, run), "Exercises")
    app.number_input(key="exercises.groups").set_value(90).run()
    assert "no such result yet" in words(app)
    app.button(key="exercises.example").click().run()
    assert app.query_params["run"] == "example"
