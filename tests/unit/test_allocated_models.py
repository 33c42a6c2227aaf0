"""What plans of every rule make of a model: whole layers gone, equal widths, and pruning in steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nirvana as nv
from nirvana.calibration.sets import CalibrationSet
from nirvana.checkpoints.uniform import export_uniform
from nirvana.errors import CompensationError, PlanError
from nirvana.layout import KV_GROUP, NEURON
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store

TOKENS = torch.tensor([[5, 80, 33, 7, 120, 9]])


@pytest.fixture(scope="module")
def deep(make_lm: Callable[..., LM]) -> LM:
    return make_lm(kv_heads=4, num_hidden_layers=5, intermediate_size=64)


@pytest.fixture(scope="module")
def calibration(deep: LM, sample_text: Path) -> CalibrationSet:
    return nv.sample_calibration(deep, nv.load_corpus(str(sample_text)), samples=4, length=24)


def logits(lm: LM) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = lm.weights()(input_ids=TOKENS).logits
    return found


def generated(lm: LM, *, cache: bool) -> list[int]:
    settings = {"do_sample": False, "min_new_tokens": 12, "max_new_tokens": 12, "use_cache": cache}
    tokens: torch.Tensor = lm.weights().generate(TOKENS, **settings)  # type: ignore[operator]
    return [int(token) for token in tokens[0]]


def test_a_model_without_its_least_influential_layers_saves_reloads_and_generates(
    deep: LM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    scores = nv.score(deep, calibration, criterion="block-influence")
    plan = nv.allocate(scores, sparsity=0.45, method="published")
    assert len(plan.removed_layers) == 2 and plan.sparsity == pytest.approx(0.4)
    small = nv.prune(deep, plan)
    influence = {site.layer: float(values[0]) for site, values in scores.items()}
    assert sorted(influence, key=influence.__getitem__)[:2] == sorted(
        (layer for _, layer in plan.removed_layers), key=influence.__getitem__
    )
    assert small.config.num_hidden_layers == 3
    assert generated(small, cache=True) == generated(small, cache=False)
    again = load_model(nv.save(small, tmp_path / "small"), device="cpu")
    assert again.layout == small.layout
    assert torch.equal(logits(again), logits(small))
    plain = load_model(export_uniform(small, tmp_path / "plain"), device="cpu")
    assert plain.layout.parameters == small.layout.parameters
    assert torch.allclose(logits(plain), logits(small), atol=1e-5)


def test_units_of_a_model_without_layers_can_go_next(deep: LM, calibration: CalibrationSet) -> None:
    shorter = nv.prune(
        deep,
        nv.allocate(nv.score(deep, calibration, criterion="block-influence"), sparsity=0.3, method="published"),
    )
    plan = nv.allocate(nv.score(shorter, calibration), sparsity=0.2)
    twice = nv.prune(shorter, plan)
    assert list(twice.kept) == list(shorter.kept)
    assert twice.layout.prunable == shorter.layout.prunable - plan.removed
    assert generated(twice, cache=True) == generated(twice, cache=False)


def test_a_run_removes_whole_layers_from_model_to_report(tiny_folder: Path, sample_text: Path) -> None:
    recipe = (
        Recipe()
        .change("model", name=str(tiny_folder), device="cpu")
        .change("calibration", corpus=str(sample_text), candidates=1, samples=4, length=32)
        .change("calibration", probe_samples=4, probe_length=16)
        .change("saliency", criterion="block-influence")
        .change("allocation", sparsity=0.4, method="published")
        .change("evaluation", corpora=(str(sample_text),), window=64, max_tokens=512)
    )
    run = Store().create(recipe)
    compute_steps(run)
    plan, summary = run.plan(), run.pruned()
    assert plan is not None and summary is not None
    assert plan.method == "layers" and len(plan.removed_layers) == 1
    assert any("Removed layers" in note for note in summary.notes)
    assert run.status == "done" and "block-influence, as published" in run.name


@pytest.mark.parametrize("method", ["shared", "published"])
def test_equal_widths_make_a_plain_checkpoint_no_larger(
    method: str, deep: LM, calibration: CalibrationSet, tmp_path: Path
) -> None:
    scores = nv.score(deep, calibration, criterion="magnitude")
    small = nv.prune(deep, nv.allocate(scores, sparsity=0.4, gamma=1.0, uniform=True, method=method))
    assert small.layout.prunable < deep.layout.prunable
    plain = load_model(export_uniform(small, tmp_path / "plain"), device="cpu")
    assert plain.layout.parameters == small.layout.parameters
    assert torch.allclose(logits(plain), logits(small), atol=1e-5)


def test_one_step_is_one_shot(deep: LM, calibration: CalibrationSet) -> None:
    stepwise = nv.prune_iteratively(deep, calibration, sparsity=0.3, steps=1, gamma=1.0)
    plan = nv.allocate(nv.score(deep, calibration), sparsity=0.3, gamma=1.0)
    assert stepwise.plan.to_json() == plan.to_json()
    assert torch.equal(logits(stepwise.lm), logits(nv.prune(deep, plan)))


def test_steps_compose_to_one_plan_that_makes_the_same_model(deep: LM, calibration: CalibrationSet) -> None:
    before = logits(deep)
    small, plan = nv.prune_iteratively(deep, calibration, sparsity=0.4, steps=3, gamma=1.0, multiple_of=4)
    assert len(small.plans) == 3
    assert torch.equal(logits(small), logits(nv.prune(deep, plan)))
    assert plan.requested == 0.4 and plan.rate(KV_GROUP) > 0 and plan.rate(NEURON) > 0
    cost = deep.layout[deep.layout.pool(NEURON)[0]].cost
    assert 0 <= 0.4 - plan.sparsity < 4 * cost / deep.layout.prunable
    one_shot = nv.allocate(nv.score(deep, calibration), sparsity=0.4, gamma=1.0, multiple_of=4)
    assert any(not np.array_equal(plan[site], one_shot[site]) for site in plan)  # it did score again
    assert torch.equal(logits(deep), before)


def test_steps_that_add_biases_compose_too(deep: LM, calibration: CalibrationSet) -> None:
    small, plan = nv.prune_iteratively(
        deep, calibration, sparsity=0.4, steps=2, gamma=1.0, compensation="bias", windows=calibration
    )
    assert len(small.plans) == 2 and any(place.output_bias for place in small.layout.values())
    assert {site: place.units for site, place in small.layout.items()} == plan.widths


def test_steps_respect_protected_layers_and_whole_layers_can_go_stepwise(deep: LM, calibration: CalibrationSet) -> None:
    plan = nv.prune_iteratively(deep, calibration, sparsity=0.3, steps=2, protected=[0]).plan
    assert all(len(plan[site]) == deep.layout[site].units for site in plan if site.layer == 0)
    wanted = {"criterion": "block-influence", "method": "published"}
    shorter = nv.prune_iteratively(deep, calibration, sparsity=0.4, steps=2, **wanted)  # type: ignore[arg-type]
    assert len(shorter.plan.removed_layers) == 2
    assert torch.equal(logits(shorter.lm), logits(nv.prune(deep, shorter.plan)))


def test_plans_of_other_models_do_not_compose(deep: LM) -> None:
    plan = nv.allocate(nv.score(deep, None, criterion="random"), sparsity=0.3)
    with pytest.raises(PlanError, match="not for the model"):
        plan.then(plan, requested=0.5)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_impossible_numbers_of_steps_are_refused(steps: int, deep: LM) -> None:
    with pytest.raises(PlanError, match="number of steps must be a whole number"):
        nv.prune_iteratively(deep, None, sparsity=0.3, steps=steps, criterion="random")


def test_later_steps_rank_new_scores_of_the_compensated_model(
    deep: LM, calibration: CalibrationSet, sample_text: Path
) -> None:
    scores = nv.score(deep, calibration, criterion="second-order")
    curves = nv.sensitivity(deep, scores, calibration, levels=(0.2, 0.5))
    windows = nv.sample_calibration(deep, nv.load_corpus(str(sample_text)), samples=6, length=24, seed=3)
    how: dict[str, Any] = {"multiple_of": 4, "gamma": 1.0}
    small, plan = nv.prune_iteratively(
        deep,
        calibration,
        sparsity=0.4,
        steps=2,
        criterion="second-order",
        method="measured",
        saliency=scores,
        sensitivity=curves,
        compensation="least_squares",
        windows=windows,
        **how,
    )
    first = nv.allocate(scores, sparsity=0.2, method="measured", sensitivity=curves, **how)
    half = nv.prune(deep, first, compensation="least_squares", statistics=nv.collect_statistics(deep, windows))
    share = (0.4 * deep.layout.prunable - first.removed) / half.layout.prunable
    second = nv.allocate(nv.score(half, calibration, criterion="second-order"), sparsity=share, **how)
    by_hand = nv.prune(half, second, compensation="least_squares", statistics=nv.collect_statistics(half, windows))
    assert torch.equal(logits(small), logits(by_hand))
    assert all(np.array_equal(plan[site], first[site][second[site]]) for site in plan)
    assert plan.requested == 0.4 and plan.notes[0] == "Units were scored in 2 rounds."


def test_a_compensation_needs_windows(deep: LM, calibration: CalibrationSet) -> None:
    with pytest.raises(CompensationError, match="needs windows"):
        nv.prune_iteratively(deep, calibration, sparsity=0.3, steps=2, compensation="bias")
