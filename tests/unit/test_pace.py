"""Paces are measured where a model is loaded and where its steps are computed, and nowhere else."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nirvana.evaluation.zero_shot.minimal_pairs import minimal_pairs
from nirvana.evaluation.zero_shot.phenomena import PHENOMENA
from nirvana.files import data_folder
from nirvana.forward.pace import seconds_per_token
from nirvana.models.lm import LM
from nirvana.runs import pace
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.pace import FORWARD, FORWARD_PASSES, LOADING, read_pace, record_pace, record_step, tokens_read
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import ModelChoice, Recipe
from nirvana.runs.store import Store

MODEL = ModelChoice(name="tiny")


def test_tokens_are_counted_by_what_is_run_over_them() -> None:
    recipe = Recipe().change("calibration", candidates=4, samples=32, length=128, probe_samples=10, probe_length=64)
    assert tokens_read("calibration", recipe) == 640 + 4 * (FORWARD_PASSES["gradients"] * 4096 + 640)
    magnitude = recipe.change("calibration", trial_criterion="magnitude")
    assert tokens_read("calibration", magnitude) == 640 + 4 * 640
    forward = recipe.change("calibration", trial_criterion="flap")
    assert tokens_read("calibration", forward) == 640 + 4 * (4096 + 640)
    assert tokens_read("calibration", recipe.change("calibration", candidates=1)) == 0
    measured = recipe.change("evaluation", corpora=("a", "b", "c"), max_tokens=1000)
    assert tokens_read("evaluate", measured) == 2 * (3 * 1000 + 640)
    asked = measured.change("evaluation", zero_shot=("minimal-pairs",), zero_shot_items=2)
    letters = sum(len(text) for key in PHENOMENA for pair in minimal_pairs(key, count=2) for text in pair)
    assert tokens_read("evaluate", asked) == pytest.approx(2 * (3 * 1000 + 640 + letters / 4.5))
    unknown = measured.change("evaluation", zero_shot=("no such task",))
    assert tokens_read("evaluate", unknown) == tokens_read("evaluate", measured)
    assert tokens_read("model", recipe) == tokens_read("allocation", recipe) == tokens_read("prune", recipe) == 0
    fitted = recipe.change("prune", compensation="bias", samples=10, length=20)
    assert tokens_read("prune", fitted) == 200


def test_paces_are_kept_by_model_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_pace(MODEL) == {}
    record_pace(MODEL, {FORWARD: 0.5, LOADING: 2.0})
    record_pace(MODEL, {FORWARD: 0.25})
    assert read_pace(MODEL) == {FORWARD: 0.25, LOADING: 2.0}
    for name, value in (("name", "other"), ("device", "cpu"), ("dtype", "bfloat16")):
        assert read_pace(MODEL.with_values(**{name: value})) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert read_pace(MODEL) == {}


def test_paces_of_another_machine_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    record_pace(MODEL, {FORWARD: 0.5})
    monkeypatch.setattr("platform.node", lambda: "another")
    assert read_pace(MODEL) == {}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "[" * 100_000], ids=len)
def test_a_damaged_file_counts_as_empty_and_is_replaced(content: str) -> None:
    file = data_folder() / pace.FILE
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert read_pace(MODEL) == {}
    record_pace(MODEL, {FORWARD: 0.5})
    assert read_pace(MODEL) == {FORWARD: 0.5}


def test_values_that_are_no_paces_are_left_out() -> None:
    record_pace(MODEL, {FORWARD: 0.5})
    file = data_folder() / pace.FILE
    (key,) = json.loads(file.read_text())
    file.write_text(json.dumps({key: {"a": -1, "b": "2", "c": None, "d": float("nan"), "e": float("inf"), "f": 3}}))
    assert read_pace(MODEL) == {"f": 3}
    file.write_text(json.dumps({key: [1]}))
    assert read_pace(MODEL) == {}


def test_a_place_that_cannot_be_written_is_no_failure(own_home: Path) -> None:
    own_home.write_text("a file where the folder should be")
    record_pace(MODEL, {FORWARD: 0.5})
    assert read_pace(MODEL) == {}


def test_a_step_leaves_its_seconds_a_token_unless_it_was_cached() -> None:
    recipe = Recipe().change("model", name="tiny").change("saliency", criterion="flap")
    recipe = recipe.change("calibration", samples=10, length=20)
    record_step("saliency", recipe, {"seconds": 50.0, "cached": True})
    record_step("saliency", recipe, {"seconds": None})
    record_step("evaluate", recipe, {"seconds": 50.0})
    record_step("allocation", recipe, {"seconds": 50.0})
    assert read_pace(recipe.model) == {}
    record_step("saliency", recipe, {"seconds": 50.0, "cached": False})
    assert read_pace(recipe.model) == {"saliency flap": 0.25}


def test_a_loaded_model_and_computed_steps_leave_paces(tiny_folder: Path, sample_text: Path) -> None:
    store = Store()
    recipe = Recipe().change("model", name=str(tiny_folder), device="cpu")
    recipe = recipe.change("calibration", corpus=str(sample_text), candidates=1, samples=2, length=16, probe_samples=2)
    recipe = recipe.change("prune", compensation="bias", samples=2, length=16)
    recipe = recipe.change("evaluation", corpora=(str(sample_text),), window=16, max_tokens=32)
    compute_steps(store.create(recipe), models=ModelCache())
    found = read_pace(recipe.model)
    assert set(found) == {LOADING, FORWARD, "saliency nirvana", "prune bias"}
    before = {kind: value for kind, value in found.items() if kind not in (LOADING, FORWARD)}
    compute_steps(store.create(recipe), models=ModelCache())  # all of it is cached now
    after = read_pace(recipe.model)
    assert {kind: after[kind] for kind in before} == before


def test_a_forward_pass_is_timed_a_token(tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    assert seconds_per_token(tiny_lm) == 1 / 64  # a pass of one window took one second by that clock: enough
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) / 1000)
    assert seconds_per_token(tiny_lm) == pytest.approx(0.001 / 512)  # the largest batch
