"""The Sweep page: its controls, what it says of finished points, and the way to their runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard import state
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import EXAMPLE, Run, Store
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row, read_grid, read_rows
from tests.app.conftest import add_job, open_tab, tables
from tests.app.test_compare_page import submitted, words
from tests.app.test_journey import wait
from tests.app.test_speed_panel import put_sizes
from tests.journals import write_sweep
from tests.sweeps import PAIRS, PERPLEXITY, grid_of, make_row
from tests.visitors import as_visitor

__all__ = ["submitted"]  # a fixture
Start = Callable[..., AppTest]
GRID = Grid(sparsities=(0.2, 0.4), seeds=(0, 1, 2))


def open_page(start: Start, run: Run | None = None) -> AppTest:
    app = start(run)
    app.switch_page("pages/sweep.py").run()
    assert not app.exception
    return app


def put_sweep(store: Store, base: Run, grid: Grid = GRID, *, speed: bool = False) -> list[Row]:
    """Made-up points of a sweep around `base`, each with a run that holds nothing."""
    write_sweep(base, grid=grid)
    for point in grid.points():
        recipe = point.recipe(base.recipe)
        run = store.create(recipe, name=point.label, study=base)
        row = make_row(point, speed=speed)
        write_sweep(base, [replace(row, run_id=run.id, fingerprint=recipe.fingerprint("evaluate"))])
    return read_rows(base)


def test_an_empty_page_says_what_a_sweep_is(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    text = words(app)
    assert "Nothing to show yet" in text and "a line for each criterion" in text
    assert "30 points" in text and "smollm2-135m" in text and "32 x 128 tokens" in text
    button = app.button(key="sweep.run")
    assert button.label == "Start the sweep" and not button.disabled


def test_the_controls_become_the_grid(start: Start, filled: Run, submitted: list[dict[str, Any]]) -> None:
    app = open_page(start, filled)
    app.multiselect(key="sweep.criteria").set_value(["flap", "random"])
    app.multiselect(key="sweep.sparsities").set_value([0.5, 0.3])
    app.multiselect(key="sweep.compensations").set_value(["none", "bias"])
    app.multiselect(key="sweep.gammas").set_value([2.0])
    app.number_input(key="sweep.seeds").set_value(2)
    app.toggle(key="sweep.speed").set_value(True).run()
    shown = "\n".join(str(code.value) for code in app.code)
    assert "criteria=('flap', 'random')".replace("'", '"') in shown and "--sparsity 0.5 --seed 0 --seed 1" in shown
    app.button(key="sweep.run").click().run()
    grid = grid_of(
        ("flap", "random"), ("shared", "published"), (0.3, 0.5), (0, 1), ("none", "bias"), (2.0,), speed=True
    )
    assert submitted == [{"run_id": filled.id, "task": "sweep", **grid.to_json()}]


def test_what_cannot_be_swept_is_refused_with_a_reason(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    app.multiselect(key="sweep.criteria").set_value([]).run()
    assert "The grid has no criteria" in words(app) and app.button(key="sweep.run").disabled
    app.multiselect(key="sweep.criteria").set_value(["random", "flap", "taylor", "wanda-sp"])
    app.multiselect(key="sweep.sparsities").set_value([0.05 * step for step in range(1, 9)])
    app.number_input(key="sweep.seeds").set_value(20).run()
    assert "at most 400" in words(app) and app.button(key="sweep.run").disabled


def test_the_example_is_copied_and_a_changed_draft_starts_a_new_run(
    start: Start, store: Store, filled: Run, submitted: list[dict[str, Any]]
) -> None:
    open_page(start).button(key="sweep.run").click().run()
    assert submitted[0]["run_id"] != EXAMPLE and len(store.runs()) == 2
    app = start(filled)
    app.switch_page("pages/saliency.py").run()
    app.selectbox(key="saliency.criterion").select("magnitude").run()  # which the grid says for itself
    app.switch_page("pages/sweep.py").run()
    app.button(key="sweep.run").click().run()
    assert submitted[1]["run_id"] == filled.id
    app.switch_page("pages/calibration.py").run()
    app.number_input(key="calibration.samples").set_value(8).run()
    app.switch_page("pages/sweep.py").run()
    assert "8 x 128 tokens" in words(app)
    app.button(key="sweep.run").click().run()
    assert submitted[2]["run_id"] not in (filled.id, submitted[0]["run_id"])
    assert store.open(submitted[2]["run_id"]).recipe.calibration.samples == 8


def test_results_are_compared_and_verdicts_said(start: Start, store: Store, filled: Run) -> None:
    put_sweep(store, filled)
    app = open_page(start, filled)
    text = words(app).replace("\\", "")
    assert "Better than NIRVANA." in app.warning[0].value and "taylor has 0.8" in app.warning[0].value
    assert "Clear winner" in app.success[0].value
    assert "How does perplexity on novels depend on sparsity?" in text
    (table,) = tables(app, "same allocation")
    assert list(table["criterion"])[:2] == ["dense", "nirvana"] and "as published" in table
    assert app.button(key="sweep.run").label == "The sweep is complete" and "30 of them done" in text
    assert "on the front" in words(open_tab(app, "Size and speed"))
    app.selectbox(key="sweep.metric").select(PAIRS).run()
    assert "accuracy on minimal-pairs" in words(app) and not app.exception
    assert app.selectbox(key="sweep.metric").options[0] == "Perplexity on novels"


def test_quality_for_bytes_and_speed(start: Start, store: Store, filled: Run) -> None:
    put_sweep(store, filled, speed=True)
    put_sizes(filled)
    app = open_tab(open_page(start, filled), "Size and speed")
    app.segmented_control(key="sweep.against").set_value("bytes").run()
    assert "for their bytes of the weights?" in words(app)
    assert "Quantised copies" in words(app), "they were measured on another text"
    app.segmented_control(key="sweep.against").set_value("speed").run()
    assert "for their measured speed?" in words(app) and not app.exception


def test_points_open_their_runs(start: Start, store: Store, filled: Run) -> None:
    rows = put_sweep(store, filled)
    app = open_tab(open_page(start, filled), "All points")
    assert "run" not in tables(app, "seconds")[0], "no raw ids"
    app.session_state["sweep.points"] = {"selection": {"rows": [4], "columns": []}}
    app.run()
    assert app.selectbox(key="sweep.point").value == rows[4].run_id
    app.session_state["sweep.pareto"] = {"selection": {"points": [{"customdata": rows[7].run_id}]}}
    app.run()
    assert app.selectbox(key="sweep.point").value == rows[7].run_id
    app.button(key="sweep.open").click().run()
    assert not app.exception and app.query_params["run"] == rows[7].run_id
    app.switch_page("pages/sweep.py").run()
    assert "one point of a sweep" in words(app) and not app.multiselect
    app.button(key="sweep.back").click().run()
    assert app.query_params["run"] == filled.id and app.selectbox(key="sweep.metric").value == PERPLEXITY


def test_a_point_leads_back_from_every_page(start: Start, store: Store, filled: Run) -> None:
    rows = put_sweep(store, filled, grid_of(("random",), ("shared",), (0.2,), (0,)))
    app = start(store.open(rows[0].run_id)).run()
    app.button(key="sidebar.study").click().run()
    assert not app.exception and app.query_params["run"] == filled.id


def test_a_sweep_that_was_stopped_goes_on(
    start: Start, store: Store, filled: Run, submitted: list[dict[str, Any]]
) -> None:
    rows = put_sweep(store, filled)
    store.delete(rows[0].run_id)
    store.delete(rows[1].run_id)
    app = open_page(start, filled)
    assert app.button(key="sweep.run").label == "Continue: 2 points to go"
    assert "28 of them done; about 4.0 s on this machine for the rest" in words(app)
    app.button(key="sweep.run").click().run()
    assert submitted == [submitted[0] | GRID.to_json()]


def test_failures_are_listed_with_their_reason(start: Start, store: Store, filled: Run) -> None:
    put_sweep(store, filled)
    point = GRID.points()[0]._replace(sparsity=0.9)
    recipe = point.recipe(filled.recipe)
    write_sweep(filled, [Row(point, fingerprint=recipe.fingerprint("evaluate"), failure="90 % is out *of* reach.")])
    app = open_page(start, filled)
    assert "out \\*of\\* reach" in words(app) and any("1 failed point" in box.label for box in app.expander)


def test_a_live_sweep_shows_what_is_there(start: Start, store: Store, filled: Run) -> None:
    put_sweep(store, filled, grid_of(("random", "taylor"), ("shared",), (0.2,), (0, 1)))
    add_job(filled, "running")
    app = open_page(start, filled)
    assert app.button(key="job.cancel").label == "Cancel" and app.button(key="sweep.run").disabled
    assert tables(app, "same allocation")


def test_controls_show_the_grid_of_the_run_that_is_opened(start: Start, store: Store, filled: Run) -> None:
    other = store.create(Recipe(), name="Other")
    put_sweep(store, other, grid_of(("flap",), ("shared",), (0.35,), (5, 9), ("bias",), (1.0,)))
    app = open_page(start, filled)
    app.query_params["run"] = other.id
    app.run()
    assert app.multiselect(key="sweep.criteria").value == ["flap"]
    assert app.multiselect(key="sweep.sparsities").value == [0.35]
    app.number_input(key="sweep.seeds").set_value(3).run()
    assert "--seed 5 --seed 9 --seed 0" in "\n".join(str(code.value) for code in app.code)


def test_runs_fold_points_away_and_delete_them_with_their_run(start: Start, store: Store, filled: Run) -> None:
    rows = put_sweep(store, filled, grid_of(("random",), ("shared",), (0.2, 0.4), (0,)))
    app = start(filled)
    app.switch_page("pages/runs.py").run()
    (table,) = tables(app, "on disk")
    assert table["points"].iloc[0] == 2 and len([name for name in table["run"] if "random" in name]) == 0
    assert any(box.label == "2 points of its sweep" for box in app.expander)
    assert "the 2 points of its sweep" in words(app)
    app.selectbox(key="runs.point").select(rows[1].run_id).run()
    app.button(key="runs.points.open").click().run()
    assert not app.exception and app.query_params["run"] == rows[1].run_id
    store.delete(filled.id)
    assert store.runs() == [] and store.children(filled.id) == []


def test_a_public_demo_sweeps_built_in_things_only(
    start: Start, store: Store, monkeypatch: pytest.MonkeyPatch, submitted: list[dict[str, Any]]
) -> None:
    monkeypatch.setenv("NIRVANA_PUBLIC_DEMO", "1")
    run = store.of("ann").create(Recipe().change("model", name="/somewhere/else"), name="Theirs")
    app = as_visitor(start(run), "ann").switch_page("pages/sweep.py").run()
    app.button(key="sweep.run").click().run()
    assert not submitted and "built-in model" in app.error[0].value


@pytest.mark.usefixtures("worker_here")
def test_a_sweep_from_the_button_to_the_table(start: Start, store: Store, tiny_folder: Path, sample_text: Path) -> None:
    recipe = (
        Recipe()
        .change("model", name=str(tiny_folder), device="cpu")
        .change("calibration", corpus=str(sample_text), samples=4, length=24, probe_samples=4, probe_length=16)
        .change("allocation", multiple_of=4)
        .change("evaluation", corpora=(str(sample_text),), window=32, max_tokens=256)
    )
    base = store.create(recipe, name="Base")
    app = open_page(start, base)
    app.multiselect(key="sweep.criteria").set_value(["magnitude"])
    app.multiselect(key="sweep.sparsities").set_value([0.2, 0.9])
    app.number_input(key="sweep.seeds").set_value(1).run()
    app.button(key="sweep.run").click().run()
    job = wait(app)
    assert job.status == "done" and job.result == {"points": 4, "failed": 2}, app.error
    grid = read_grid(base)
    assert grid is not None and grid.criteria == ("magnitude",) and len(store.children(base.id)) == 2
    assert tables(app, "same allocation") and "2 failed points" in str([box.label for box in app.expander])
    assert app.button(key="sweep.run").label == "Try 2 failed points again"
    assert "for the rest" not in words(app), "what failed once fails at once"
    state.jobs().unload()
