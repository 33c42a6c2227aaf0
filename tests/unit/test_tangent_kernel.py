"""The change of the tangent kernel's diagonal against autograd in float64, parameter by parameter."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nirvana as nv
from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import Cancelled, PlanError, SaliencyError
from nirvana.evaluation.tangent_kernel import output_gradients
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.models.weights import layer_places, linear_layer
from nirvana.plan import PruningPlan
from nirvana.progress import Progress
from tests.conftest import english
from tests.families import test_t5 as makers
from tests.oracle import all_logits, mask_units_


@pytest.fixture(scope="module")
def models(make_lm: Callable[..., LM], tmp_path_factory: pytest.TempPathFactory) -> dict[str, LM]:
    folder = tmp_path_factory.mktemp("models") / "t5"
    makers.T5Tests.write(folder)
    return {
        "grouped": make_lm(),
        "biased": make_lm(attention_bias=True, mlp_bias=True, seed=2),
        "untied": make_lm(tie_word_embeddings=False, seed=3),
        "t5": load_model(folder, device="cpu"),
    }


def inputs_of(lm: LM, samples: int = 3) -> CalibrationSet:
    return nv.sample_probe(lm, "\n\n".join(english(20, seed=4)), samples=samples, length=16)


def plan_of(lm: LM, sparsity: float = 0.4, seed: int = 0) -> PruningPlan:
    return nv.allocate(nv.score(lm, None, criterion="random", seed=seed), sparsity=sparsity, gamma=1.0, multiple_of=1)


def in_float64(lm: LM) -> LM:
    return dataclasses.replace(lm, model=copy.deepcopy(lm.weights()).double(), dtype=torch.float64)


def gradients(lm: LM, x: CalibrationSet) -> tuple[float, dict[str, torch.Tensor]]:
    """f and its gradient by each parameter, from all logits of one sample with autograd."""
    model = lm.weights()
    names, parameters = zip(*model.named_parameters(), strict=True)
    for parameter in parameters:
        parameter.requires_grad_(True)
    value = all_logits(lm, x).max(dim=1).values.mean()
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    kept = {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}
    return float(value.detach()), kept


def removed_parameters(lm: LM, plan: PruningPlan) -> dict[str, torch.Tensor]:
    """Parameter name -> booleans of its shape, true where the plan removes the weight, set one unit at a time."""
    model, places = lm.weights(), layer_places(lm.layout)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    removed = {name: torch.zeros_like(parameter, dtype=torch.bool) for name, parameter in model.named_parameters()}
    for site, kept in plan.items():
        block = lm.family.blocks(model)[site.stack][places[site.stack, site.layer]]
        for unit in set(range(lm.layout[site].units)) - set(kept.tolist()):
            for part in lm.family.slices(lm.settings, site):
                linear, rows = linear_layer(block, part), slice(unit * part.size, (unit + 1) * part.size)
                if part.dim == 1:
                    removed[name_of[id(linear.weight)]][:, rows] = True
                else:
                    removed[name_of[id(linear.weight)]][rows] = True
                    if linear.bias is not None:
                        removed[name_of[id(linear.bias)]][rows] = True
    return removed


@pytest.mark.parametrize("name", ["grouped", "biased", "untied", "t5"])
def test_each_part_is_that_of_autograd_in_float64(models: dict[str, LM], name: str) -> None:
    lm = models[name]
    x, plan = inputs_of(lm), plan_of(lm)
    found = nv.kernel_shift(lm, plan, x)
    assert plan.removed
    for sample in range(3):
        one = x.part(slice(sample, sample + 1))
        dense, masked = in_float64(lm), in_float64(lm)
        mask_units_(masked, plan)
        value, before = gradients(dense, one)
        changed, after = gradients(masked, one)
        gone = removed_parameters(dense, plan)
        weights = {name: parameter.detach() for name, parameter in dense.weights().named_parameters()}
        kernel = sum(float(grad.abs().sum()) for grad in before.values())
        remaining = sum(float((after[name].abs() - before[name].abs())[~gone[name]].sum()) for name in before)
        lost = sum(float(grad.abs()[gone[name]].sum()) for name, grad in before.items())
        matrices = {name: grad for name, grad in before.items() if grad.ndim == 2}
        saliency = sum(float((grad * weights[name]).abs()[gone[name]].sum()) for name, grad in matrices.items())
        assert found.dense[sample] == pytest.approx(kernel, rel=1e-5)
        assert found.lost[sample] == pytest.approx(lost, rel=1e-5)
        assert found.saliency[sample] == pytest.approx(saliency, rel=1e-5)
        assert found.remaining[sample] == pytest.approx(remaining, abs=1e-5 * kernel)
        assert found.shift[sample] == pytest.approx(remaining - lost, abs=1e-5 * kernel)
        assert found.dense_output[sample] == pytest.approx(value, rel=1e-5)
        assert found.output_shift[sample] == pytest.approx(changed - value, abs=1e-5)
    assert found.relative() == pytest.approx(np.abs(found.shift) / found.dense)


def test_a_plan_that_removes_nothing_moves_nothing(models: dict[str, LM]) -> None:
    lm = models["grouped"]
    whole = PruningPlan({site: np.arange(place.units) for site, place in lm.layout.items()}, lm.layout, 0.0, 1.0)
    found = nv.kernel_shift(lm, whole, inputs_of(lm))
    assert not found.lost.any() and not found.saliency.any()
    assert found.shift == pytest.approx(np.zeros(3), abs=1e-6 * found.dense.max())


def test_padding_does_not_count(models: dict[str, LM]) -> None:
    lm = models["grouped"]
    short = inputs_of(lm, samples=1)
    padded = np.concatenate([short.tokens, np.full((1, 5), 7)], axis=1)
    mask = (np.arange(21) < 16).astype(np.int64)[None]
    one, other = nv.kernel_shift(lm, plan_of(lm), short), nv.kernel_shift(lm, plan_of(lm), CalibrationSet(padded, mask))
    assert other.dense == pytest.approx(one.dense, rel=1e-4)
    assert other.pruned == pytest.approx(one.pruned, rel=1e-4)


def test_the_model_is_as_before_also_after_a_stop(models: dict[str, LM]) -> None:
    lm = models["grouped"]
    weights = {name: parameter.detach().clone() for name, parameter in lm.weights().named_parameters()}

    def stop(progress: Progress) -> None:
        if progress.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        nv.kernel_shift(lm, plan_of(lm), inputs_of(lm), progress=stop)
    nv.kernel_shift(lm, plan_of(lm), inputs_of(lm))
    for name, parameter in lm.weights().named_parameters():
        assert torch.equal(parameter, weights[name]) and parameter.grad is None and not parameter.requires_grad
        assert not getattr(parameter, "_post_accumulate_grad_hooks", None)


def test_the_dense_gradients_serve_several_plans(models: dict[str, LM]) -> None:
    lm = models["grouped"]
    x = inputs_of(lm)
    dense, seen = output_gradients(lm, x), list[Progress]()
    for seed in (0, 1):
        one = nv.kernel_shift(lm, plan_of(lm, seed=seed), x)
        other = nv.kernel_shift(lm, plan_of(lm, seed=seed), x, dense=dense, progress=seen.append)
        assert one.to_json() == other.to_json()
    fractions = [progress.fraction for progress in seen]
    assert fractions[-1] == 1 and fractions[:4] == sorted(fractions[:4])


def test_saved_and_read_back(models: dict[str, LM], tmp_path: Path) -> None:
    lm = models["grouped"]
    found = nv.kernel_shift(lm, plan_of(lm), inputs_of(lm))
    again = nv.KernelShift.from_json(json.loads(json.dumps(found.to_json())))
    assert again.to_json() == found.to_json() and again.shift == pytest.approx(found.shift)
    assert again.protocol["samples"] == 3 and again.protocol["sparsity"] == plan_of(lm).sparsity
    broken: list[Any] = [{}, {**found.to_json(), "lost": [1.0]}, {**found.to_json(), "dense": "x"}]
    for data in broken:
        with pytest.raises(PlanError, match="no saved kernel shift"):
            nv.KernelShift.from_json(data)


def test_wrong_plans_and_inputs(models: dict[str, LM]) -> None:
    lm, x = models["grouped"], inputs_of(models["grouped"])
    scores = nv.score(lm, x, criterion="block-influence")
    with pytest.raises(PlanError, match="plans of units"):
        nv.kernel_shift(lm, nv.allocate(scores, sparsity=0.4, method="published"), x)
    small = nv.prune(lm, plan_of(lm))
    with pytest.raises(PlanError, match="another shape"):
        nv.kernel_shift(small, plan_of(lm), x)
    with pytest.raises(SaliencyError, match="outside"):
        nv.kernel_shift(lm, plan_of(lm), CalibrationSet(np.full((1, 4), 5000)))
