"""Expected durations come from measured paces, and the time left of a job from its own pace as it advances."""

from __future__ import annotations

from typing import Any

import pytest

from nirvana.jobs.lane import Live
from nirvana.jobs.queue import Job
from nirvana.reporting.estimates import (
    UNKNOWN,
    demo_seconds,
    expected_seconds,
    forward_seconds,
    in_words,
    step_left,
    study_left,
    sweep_seconds,
    time_left,
    total_seconds,
)
from nirvana.runs.pace import FORWARD, LOADING
from nirvana.runs.recipe import Recipe
from nirvana.studies.sweep_grid import Grid

STEPS = Recipe().steps
RECIPE = (
    Recipe()
    .change("calibration", candidates=1, samples=10, length=100, probe_samples=10, probe_length=10)
    .change("saliency", criterion="flap")
    .change("prune", compensation="bias", samples=10, length=100)
    .change("evaluation", corpora=("a",), max_tokens=900)
)
PACE = {FORWARD: 0.01, LOADING: 3.0}
NOW = 1000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)


def job(task: str = "run", *, spent: float = 10.0, done: int = 0, first: int = 1, **values: Any) -> Job:
    """A job whose step, or first point, began `spent` seconds ago and has done so many percent of it."""
    known: dict[str, Any] = dict.fromkeys(("finished", "error", "result"))
    known |= {"id": "1", "run_id": "2", "task": task, "arguments": {}, "device": "cpu", "status": "running"}
    known |= {"position": 0, "created": 0.0, "started": 0.0, "steps": 1, "step_number": 1, "step": task}
    begun = NOW - spent
    reports: dict[str, Any] = {"first": (begun, 0.0), "last": (NOW, done / 100)} if done else {}
    return Job(**known | {"begun": (begun, first), "done": done, "total": 100, **reports} | values)


def test_a_step_takes_its_own_pace_or_else_that_of_forward_passes() -> None:
    assert [expected_seconds(step, RECIPE, PACE) for step in STEPS] == [3.0, 0.0, 10.0, 0.0, 10.0, 20.0]
    assert expected_seconds("saliency", RECIPE, PACE | {"saliency flap": 0.5}) == 500
    assert expected_seconds("saliency", RECIPE, PACE | {"saliency taylor": 0.5}) == 10
    assert expected_seconds("prune", RECIPE, PACE | {"prune bias": 0.02}) == 20
    assert total_seconds(STEPS, RECIPE, PACE) == 43
    assert forward_seconds(50, PACE) == 0.5


def test_a_recovery_takes_its_minutes_or_the_passes_over_its_tokens() -> None:
    timed = RECIPE.change("recovery", method="distill", minutes=3.0)
    assert timed.steps[-2:] == ("recover", "evaluate") and expected_seconds("recover", timed, PACE) == 180
    counted = timed.change("recovery", minutes=0.0, tokens=1_000)
    assert expected_seconds("recover", counted, PACE) == pytest.approx(43)
    assert expected_seconds("recover", timed.change("recovery", minutes=0.0, epochs=2), PACE) is None
    assert expected_seconds("evaluate", timed, PACE) == 30, "three models are measured"


def test_nothing_is_expected_before_anything_was_measured() -> None:
    expected = [expected_seconds(step, RECIPE, {}) for step in STEPS]
    assert expected == [None, 0.0, None, 0.0, None, None]
    assert total_seconds(STEPS, RECIPE, {}) is None and total_seconds(("allocation",), RECIPE, {}) == 0
    assert in_words(None) == UNKNOWN and in_words(12.2) == "about 12 s on this machine"


def test_a_sweep_measures_the_dense_model_once_and_scores_once_a_seed() -> None:
    grid = Grid(criteria=("flap",), methods=("shared",), sparsities=(0.2, 0.3), seeds=(0, 1), compensations=("bias",))
    points = grid.points()
    assert len(points) == 4
    assert sweep_seconds(points, [], RECIPE, PACE) == 20 + 3 * 10 + 2 * 10 + 2 * 10
    assert sweep_seconds(points, [], RECIPE, {}) is None


def test_the_demo_shares_its_steps_with_its_curve() -> None:
    grid = Grid(criteria=("flap",), methods=("shared",), sparsities=(0.2, 0.3), seeds=(0,), compensations=("bias",))
    points = grid.points()
    trains = RECIPE.change("recovery", method="distill", minutes=0.5)
    curve = 20 + 10 + 10 + 10
    assert sweep_seconds(points, [], trains, PACE) == curve
    assert demo_seconds(trains, points, PACE) == curve + 3 + 30 + 10
    assert demo_seconds(RECIPE, points, PACE) == curve + 3
    several = RECIPE.change("calibration", candidates=4)
    assert demo_seconds(several, points, PACE) == pytest.approx(
        curve + (total_seconds(several.steps, several, PACE) or 0)
    )
    assert demo_seconds(trains, (), PACE) == total_seconds(trains.steps, trains, PACE)
    assert demo_seconds(trains, points, {}) is None


def test_reports_that_fall_back_do_not_unsettle_the_pace() -> None:
    live = Live().after({"event": "step", "step": "evaluate", "number": 2, "steps": 3})
    for done in (10, 40, 20):
        live = live.after({"event": "progress", "stage": "s", "done": done, "total": 100, "text": ""})
    assert (live.done, live.first, live.last, live.begun) == (20, (NOW, 0.1), (NOW, 0.4), (NOW, 2))
    live = live.after({"event": "progress", "stage": "s", "done": 0, "total": 0, "text": ""})
    assert live.last == (NOW, 0.4)


def test_the_points_of_a_study_are_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live().after({"event": "step", "step": "model", "number": 1, "steps": 1})
    live = live.after({"event": "step", "step": "sweep", "number": 5, "steps": 9})
    monkeypatch.setattr("time.time", lambda: NOW + 60)
    live = live.after({"event": "step", "step": "sweep", "number": 6, "steps": 9})
    assert live.begun == (NOW, 5) and live.first is None
    assert live.after({"event": "step", "step": "other", "number": 1, "steps": 1}).begun == (NOW + 60, 1)


def test_the_pace_counts_from_report_to_report_and_the_rest_is_a_countdown() -> None:
    assert job(done=50, spent=10).eta == 10
    assert job(done=50, spent=10, first=1, last=(NOW - 2, 0.5)).eta == 6  # 8 s for one half, and 2 s of the other gone
    assert job(done=50, last=(NOW - 9.5, 0.5)).eta is None  # half a second tells too little
    assert job(done=2).eta is None
    assert job().eta is None and job(done=50, status="queued").eta is None


def test_an_expectation_turns_into_the_own_pace_of_the_step() -> None:
    assert step_left(job(spent=4), 10.0) == 6 and step_left(job(spent=40), 10.0) == 0
    assert step_left(job(), None) is None and step_left(job(done=50), None) == 10
    assert step_left(job(done=10, spent=10), 200.0) == pytest.approx(0.4 * 100 + 0.6 * 200 - 10)
    assert step_left(job(done=25, spent=10), 200.0) == pytest.approx(30)  # from a quarter on, its own pace alone


def test_a_run_adds_the_steps_that_follow() -> None:
    at: dict[str, Any] = {"step": "saliency", "step_number": 2, "steps": 4}
    assert time_left(job(done=50, **at), RECIPE, STEPS, PACE) == "about 40 s left"
    assert time_left(job(spent=4, **at), RECIPE, STEPS, PACE) == "about 36 s left"
    assert time_left(job(spent=4, **at), RECIPE, STEPS[:3], PACE) == "about 6.0 s left"
    assert time_left(job(spent=400, **at), RECIPE, STEPS[:3], PACE) == "about 1.0 s left"
    starting = job(step="", started=NOW - 3)
    assert time_left(starting, RECIPE, STEPS, PACE) == "about 40 s left"


def test_before_anything_was_measured_a_step_has_its_own_pace_only() -> None:
    at: dict[str, Any] = {"step": "saliency", "step_number": 2, "steps": 4}
    assert time_left(job(**at), RECIPE, STEPS, {}) == "time left unknown"
    assert time_left(job(done=50, **at), RECIPE, STEPS, {}) == "about 10 s left in this step"
    assert time_left(job(done=50, **at), RECIPE, ("saliency", "allocation"), {}) == "about 10 s left"
    assert time_left(job(step=""), RECIPE, STEPS, {}) == "time left unknown"


def test_a_study_has_the_pace_of_its_points() -> None:
    sweep = job("sweep", spent=100, done=50, first=3, step_number=4, steps=8)
    assert study_left(sweep) == pytest.approx(100 / 1.5 * 4.5)
    assert time_left(sweep, RECIPE, (), {}) == "about 5 min 00 s left"
    assert study_left(job("sweep", spent=100, steps=8)) is None
    loading = job("sweep", step="model", done=50)
    assert time_left(loading, RECIPE, (), {}) == "about 10 s left in this step"


def test_a_search_ends_with_its_minutes_or_its_trials() -> None:
    timed: dict[str, Any] = {"arguments": {"minutes": 2, "trials": 0}, "steps": 0}
    assert study_left(job("tune", spent=30, **timed)) == 90
    assert study_left(job("tune", spent=300, **timed)) == 0
    both: dict[str, Any] = {"arguments": {"minutes": 2, "trials": 4}, "steps": 4}
    assert study_left(job("tune", spent=30, done=50, first=1, step_number=2, **both)) == pytest.approx(20 * 2.5)
    assert time_left(job("tune", begun=(0.0, 1), **timed | {"step": ""}), RECIPE, (), {}) == "time left unknown"
    counted: dict[str, Any] = {"arguments": {"minutes": 0, "trials": 0}, "steps": 0}
    assert time_left(job("tune", **counted), RECIPE, (), {}) == "time left unknown"


def test_a_task_of_one_step_has_the_pace_of_its_step() -> None:
    assert time_left(job("speed", done=50), RECIPE, (), {}) == "about 10 s left"
    assert time_left(job("export"), RECIPE, (), {}) == "time left unknown"
