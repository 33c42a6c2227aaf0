"""Second-order scores against removing units one by one and fitting what stays anew each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nirvana.calibration.sets import CalibrationSet
from nirvana.compensation import REGULARISATION
from nirvana.compensation.statistics import Moments
from nirvana.layout import ATTENTION, MLP, Site
from nirvana.models.lm import LM
from nirvana.saliency.request import Request
from nirvana.saliency.score import score
from nirvana.saliency.second_order import removal_costs, row_costs
from tests.oracle import all_logits


def problem(width: int, *, rows: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Moments]:
    """A weight (rows, width), row weights, and moments of inputs that depend on each other and have a mean."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(200, width)) @ draw.normal(size=(width, width)) + draw.normal(size=width)
    moments = Moments(inputs.mean(axis=0), (inputs.T @ inputs / len(inputs)).astype(np.float32))
    return draw.normal(size=(rows, width)), draw.uniform(0.1, 2, rows), moments


def greedily(weight: np.ndarray, rows: np.ndarray, moments: Moments, units: int) -> np.ndarray:
    """The least weighted squared error without a set of features comes from the Schur complement of their part of G."""
    assert moments.second is not None
    size = weight.shape[1] // units
    second = moments.second.astype(np.float64)
    second += REGULARISATION * second.diagonal().mean() * np.eye(len(second))

    def left(gone: list[int]) -> float:
        out = np.concatenate([np.arange(unit * size, (unit + 1) * size) for unit in gone])
        kept = np.setdiff1d(np.arange(weight.shape[1]), out)
        explained = second[np.ix_(out, kept)] @ np.linalg.solve(second[np.ix_(kept, kept)], second[np.ix_(kept, out)])
        schur = second[np.ix_(out, out)] - explained
        return float(np.trace(weight[:, out].T @ (rows[:, None] * weight[:, out]) @ schur))

    gone: list[int] = []
    scores, before, highest = np.zeros(units), 0.0, 0.0
    while len(gone) < units:
        after = {unit: left([*gone, unit]) for unit in range(units) if unit not in gone}
        unit = min(after, key=lambda each: after[each])
        highest = scores[unit] = max(highest, after[unit] - before)
        before = after[unit]
        gone.append(unit)
    return scores


@pytest.mark.parametrize(("width", "units"), [(12, 12), (12, 3), (70, 70)], ids=["neurons", "groups", "many neurons"])
def test_a_units_score_is_what_its_turn_costs(width: int, units: int) -> None:
    weight, rows, moments = problem(width)
    found = removal_costs(torch.from_numpy(weight), torch.from_numpy(rows), moments, units)
    np.testing.assert_allclose(found, greedily(weight, rows, moments, units), rtol=1e-4)


def test_ranking_keeps_the_order_of_the_turns() -> None:
    """Turns that cost less than the one before are common; none of them may share a score."""
    for seed in range(20):
        weight, rows, moments = problem(30, rows=1, seed=seed)
        found = removal_costs(torch.from_numpy(weight), torch.from_numpy(rows), moments, 30)
        assert len(set(found.tolist())) == 30
        expected = greedily(weight, rows, moments, 30)
        assert (np.diff(expected[np.argsort(found)]) >= 0).all()


def test_two_features_by_hand() -> None:
    """Without correlation nothing makes up for a feature: its cost is its mean square times its squared weights."""
    weight, rows = torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([1.0, 0.5])
    moments = Moments(np.array([1.0, 0.0]), np.array([[2.0, 0.0], [0.0, 2.0]], np.float32))
    found = removal_costs(weight, rows, moments, 2)
    np.testing.assert_allclose(found, np.array([2 * (1 + 4.5), 2 * (4 + 0.5)]) * (1 + REGULARISATION), rtol=1e-6)


def test_of_two_equal_features_only_the_first_to_go_is_cheap() -> None:
    draw = np.random.default_rng(1)
    inputs = draw.normal(size=(500, 6))
    inputs[:, 4] = inputs[:, 1]
    moments = Moments(inputs.mean(axis=0), (inputs.T @ inputs / len(inputs)).astype(np.float32))
    found = removal_costs(torch.ones(3, 6), torch.ones(3), moments, 6)
    cheap, dear = sorted(found[[1, 4]])
    assert cheap < 0.01 < 1 < dear


def test_inputs_that_are_always_zero_cost_nothing() -> None:
    moments = Moments(np.zeros(4), np.zeros((4, 4), np.float32))
    assert not removal_costs(torch.ones(2, 4), torch.ones(2), moments, 4).any()


def test_rows_cost_the_squared_gradient_of_the_loss(make_lm: Callable[..., LM]) -> None:
    lm = make_lm()
    ids = np.random.default_rng(2).integers(2, 258, (3, 9))
    mask = np.ones_like(ids)
    mask[1, 6:] = 0
    calibration = CalibrationSet(ids, mask)
    found = row_costs(Request(lm, calibration, 0, None, "auto", None))
    blocks: Any = lm.weights()
    outputs: dict[str, torch.Tensor] = {}
    modules = {ATTENTION: blocks.model.layers[1].self_attn.o_proj, MLP: blocks.model.layers[1].mlp.down_proj}
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output))
        for name, module in modules.items()
    ]
    lm.weights().requires_grad_(True)
    logits = all_logits(lm, calibration)
    for handle in handles:
        handle.remove()
    labels = torch.tensor(ids[:, 1:])
    counted = torch.tensor(mask[:, 1:] == 1)
    losses = torch.nn.functional.cross_entropy(logits[:, :-1][counted], labels[counted], reduction="sum")
    gradients = torch.autograd.grad(losses, list(outputs.values()))
    lm.weights().requires_grad_(False)
    for name, gradient in zip(outputs, gradients, strict=True):
        expected = (gradient**2).sum(dim=(0, 1)) / int(counted.sum())
        torch.testing.assert_close(found[Site("decoder", 1, name)], expected, rtol=1e-4, atol=1e-9)


def test_scores_rise_in_the_order_of_removal_and_leave_the_model_as_it_was(make_lm: Callable[..., LM]) -> None:
    lm = make_lm()
    lm.weights().model.norm.weight.requires_grad_(True)
    calibration = CalibrationSet(np.random.default_rng(2).integers(2, 258, (4, 30)))
    reports: list[float] = []
    found = score(lm, calibration, criterion="second-order", progress=lambda report: reports.append(report.fraction))
    assert all((values > 0).all() for values in found.values())
    assert reports == sorted(reports) and reports[-1] == 1
    assert all(p.grad is None for p in lm.weights().parameters())
    assert lm.weights().model.norm.weight.requires_grad
