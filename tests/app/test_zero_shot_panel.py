"""Zero-shot tasks on the Compare page: chosen with a click, measured by the worker, shown with intervals."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard import state
from nirvana.errors import RunError
from nirvana.evaluation.results import Report
from nirvana.evaluation.zero_shot.phenomena import PHENOMENA
from nirvana.evaluation.zero_shot.results import TaskAccuracy, ZeroShot, measurements
from nirvana.jobs.demo import check_choices
from nirvana.jobs.queue import JobManager
from nirvana.models.families.t5 import T5Family
from nirvana.runs.recipe import CalibrationChoice, EvaluationChoice, Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import SMALL_T5, fill, open_tab, tables
from tests.app.test_compare_page import open_page, words

Start = Callable[..., AppTest]
PATIENCE = 180  # seconds; a passing test waits far less


def with_tasks(run: Run) -> None:
    """Give the run's report minimal pairs that the pruned model is worse at, and a task that both do equally well."""
    report = run.report()
    assert report is not None
    found = list(report.measurements)
    for subject, right in (("dense", 90), ("pruned", 50)):
        tasks = [
            TaskAccuracy(
                name, {"acc": np.arange(100) < share}, 0.5, {"harness": "lm-eval 0.0", "shots": 0, "items": "x"}
            )
            for name, share in (("minimal-pairs", right), ("minimal-pairs/filler-gap", right), ("own *task*.jsonl", 80))
        ]
        found += measurements(ZeroShot(tuple(tasks)), subject, {"note": "4-bit origin", "device": "cpu"})
    run.put("evaluate", Report(tuple(found)), device="cpu", dtype="float32", seconds=1.0)


def test_minimal_pairs_are_one_click_away(start: Start, filled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[tuple[str, str]] = []
    monkeypatch.setattr(JobManager, "submit", lambda self, run, **named: submitted.append((run, named["until"])))
    app = open_page(start, filled)
    assert not app.toggle(key="compare.minimal_pairs").value and "### Zero-shot tasks" not in words(app)
    app.toggle(key="compare.minimal_pairs").set_value(True).run()
    assert "are measured on 1 zero-shot task" in words(app) and not app.button(key="compare.run").disabled
    app.number_input(key="compare.items").set_value(25).run()
    app.button(key="compare.run").click().run()
    ((run_id, until),) = submitted
    evaluation = state.store().open(run_id).recipe.evaluation
    assert until == "evaluate" and evaluation == filled.recipe.evaluation.with_values(
        zero_shot=("minimal-pairs",), zero_shot_items=25
    )
    app.toggle(key="compare.minimal_pairs").set_value(False).run()
    app.number_input(key="compare.items").set_value(0).run()
    assert app.session_state[state.DRAFT] == filled.recipe


def test_a_folder_and_hub_tasks_can_be_added(start: Start, filled: Run, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(json.dumps({"query": "a", "choices": ["b", "c"], "gold": 0}), encoding="utf-8")
    app = open_page(start, filled)
    app.multiselect(key="compare.tasks").set_value(["piqa", str(tmp_path)]).run()
    assert app.session_state[state.DRAFT].evaluation.zero_shot == ("piqa", str(tmp_path))
    assert "2 zero-shot tasks (downloads are not counted)" in words(app).replace("\\", "")
    assert not app.button(key="compare.run").disabled
    app.multiselect(key="compare.tasks").set_value([str(tmp_path / "nothing.jsonl")]).run()
    assert "There is no zero-shot task" in words(app) and app.button(key="compare.run").disabled


def test_a_recipe_keeps_the_order_of_its_tasks(start: Start, store: Store) -> None:
    recipe = Recipe().change("evaluation", zero_shot=("piqa", "minimal-pairs"), zero_shot_items=7)
    app = open_page(start, fill(store.create(recipe, name="Ordered")))
    assert app.toggle(key="compare.minimal_pairs").value and app.multiselect(key="compare.tasks").value == ["piqa"]
    assert app.session_state[state.DRAFT] == recipe and "This choice is measured." in words(app)


def test_answers_are_shown_with_what_is_beyond_chance(start: Start, filled: Run) -> None:
    with_tasks(filled)
    app = open_tab(open_page(start, filled), "Zero-shot")
    text = words(app)
    assert "clearly worse on Minimal pairs; not significant: 1 other difference" in text
    assert "On which phenomenon did pruning change accuracy?" in text and "A question word and its gap" in text
    assert "lm-eval 0.0, no examples in the prompt" in text.replace("\\", "")
    charts = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    assert sum(chart["layout"]["xaxis"]["title"]["text"] == "Pruned minus dense, same items" for chart in charts) == 2
    (everything,) = tables(open_tab(app, "All numbers"), "harness")
    assert set(everything["task"].dropna()) >= {"minimal-pairs", "own *task*.jsonl"} and "outcomes" not in everything


def test_an_encoder_decoder_is_not_asked_minimal_pairs(start: Start, store: Store) -> None:
    run = fill(store.create(Recipe(), name="T5"), SMALL_T5, family=T5Family())
    app = open_page(start, run)
    app.toggle(key="compare.minimal_pairs").set_value(True).run()
    assert "sentences without an input" in words(app) and app.button(key="compare.run").disabled


def test_a_public_demo_reads_no_paths(start: Start, filled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIRVANA_PUBLIC_DEMO", "1")
    app = open_page(start, filled)
    keys = [str(box.key) for box in app.multiselect]
    assert "compare.tasks" not in keys and app.toggle(key="compare.minimal_pairs")
    check_choices(Recipe().change("evaluation", zero_shot=("minimal-pairs",)))
    with pytest.raises(RunError, match="built-in"):
        check_choices(Recipe().change("evaluation", zero_shot=("/etc",)))


@pytest.mark.usefixtures("worker_here")
def test_the_worker_asks_both_models(start: Start, store: Store, sample_text: Path, tiny_folder: Path) -> None:
    text = str(sample_text)
    recipe = Recipe(
        calibration=CalibrationChoice(
            corpus=text, candidates=1, samples=4, length=24, probe_samples=4, probe_length=16
        ),
        evaluation=EvaluationChoice(corpora=(), window=32, max_tokens=256),
    ).change("model", name=str(tiny_folder))
    app = open_page(start, store.create(recipe))
    app.toggle(key="compare.minimal_pairs").set_value(True).run()
    app.number_input(key="compare.items").set_value(2).run()
    app.button(key="compare.run").click().run()
    job, deadline = state.jobs().jobs(app.query_params["run"])[0], time.monotonic() + PATIENCE
    while job.live:
        assert time.monotonic() < deadline, f"{job.stage} still runs"
        time.sleep(0.1)
        job = state.jobs().job(job.id)
    app.run()
    assert not app.exception and job.status == "done", state.jobs().log(job.id, 20)
    report = store.open(app.query_params["run"]).report()
    assert report is not None
    for subject in ("dense", "pruned"):
        measured: Any = report.find("accuracy", subject, task="minimal-pairs")
        assert measured.n == 2 * len(PHENOMENA)
    open_tab(app, "Zero-shot")
    assert "On which task did pruning change accuracy?" in words(app)
    assert not any("it/s]" in line for line in state.jobs().log(job.id, 200) if "zero" in line.lower())
