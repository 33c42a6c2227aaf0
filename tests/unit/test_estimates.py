"""Estimates count the tokens that a step reads, and scale what it took before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nirvana.calibration.sets import CalibrationSet
from nirvana.evaluation.zero_shot.minimal_pairs import minimal_pairs
from nirvana.evaluation.zero_shot.phenomena import PHENOMENA
from nirvana.layout import NEURON, Layout, Site, SiteLayout
from nirvana.reporting.estimates import FORWARD_PASSES, expected_seconds, tokens_read
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import ModelCard
from nirvana.runs.store import Run, Store


def calibrated(
    store: Store, *, seconds: float = 10.0, parameters: int = 1000, device: str = "cpu", **choice: Any
) -> Run:
    run = store.create(Recipe().change("calibration", **choice))
    layout = Layout({Site("decoder", 0, "mlp"): SiteLayout(10, 10, NEURON)}, {"embeddings": parameters - 100})
    card = ModelCard("tiny", "", "", "Llama", layout, {}, "ab", device, "float32", 4 * parameters)
    run.put("model", card, device=device)
    run.put("calibration", CalibrationSet([[1, 2]]), device=device, seconds=seconds)
    return run


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


def test_time_grows_with_the_candidates(tmp_path: Path) -> None:
    run = calibrated(Store(tmp_path), candidates=4)
    before, now = run.recipe, run.recipe.change("calibration", candidates=8)
    assert expected_seconds("calibration", before, run) == pytest.approx(10)
    expected = 10 * tokens_read("calibration", now) / tokens_read("calibration", before)
    assert expected_seconds("calibration", now, run) == pytest.approx(expected)


def test_a_run_without_results_goes_by_another_of_the_same_device(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = calibrated(store, candidates=4, parameters=1000)
    fresh = calibrated(store, candidates=4, parameters=3000)
    fresh.steps.path.joinpath("calibration.info.json").unlink()
    assert expected_seconds("calibration", fresh.recipe, fresh, [other]) == pytest.approx(30)
    gpu = calibrated(store, candidates=4, device="cuda")
    assert expected_seconds("calibration", fresh.recipe, fresh, [gpu]) is None
    assert expected_seconds("calibration", fresh.recipe, store.create(Recipe())) is None


def test_what_was_not_timed_by_its_own_recipe_is_not_gone_by(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = calibrated(store, candidates=4)
    stale = store.set_recipe(run.id, run.recipe.change("calibration", candidates=2))
    assert expected_seconds("calibration", stale.recipe, stale) is None
