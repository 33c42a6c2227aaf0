"""Compensation: moments against the definition, closed forms against hand-worked cases, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import nirvana as nv
from nirvana.calibration.sets import CalibrationSet
from nirvana.compensation import statistics as statistics_module
from nirvana.compensation.closed_form import least_squares, mean_bias
from nirvana.compensation.statistics import Moments, Statistics, collect_statistics, statistics_bytes
from nirvana.errors import Cancelled, CompensationError, SaliencyError
from nirvana.layout import ATTENTION, MLP, Site
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import Progress
from nirvana.surgery import prune
from tests.families.base import some_plan

# Four tokens of two inputs; the output reads both: y = 3 x0 + 2 x1.
INPUTS = np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 7.0], [2.0, 4.0]])
WEIGHT = torch.tensor([[3.0, 2.0]])
FIRST = torch.tensor([0])


def moments_of(inputs: np.ndarray) -> Moments:
    return Moments(inputs.mean(axis=0), (inputs.T @ inputs / len(inputs)).astype(np.float32))


def draw_set(lm: LM, samples: int = 6, length: int = 20, *, seed: int = 0) -> CalibrationSet:
    draw = np.random.default_rng(seed)
    return CalibrationSet(draw.integers(2, lm.layout.other["embeddings"] // 32, (samples, length)), seed=seed)


@pytest.fixture(scope="module")
def statistics(tiny_lm: LM) -> Statistics:
    return collect_statistics(tiny_lm, draw_set(tiny_lm))


def test_a_bias_is_what_the_removed_input_contributed_on_average() -> None:
    update = mean_bias(WEIGHT, FIRST, moments_of(INPUTS))
    assert update.weight.tolist() == [[3.0]]
    assert update.bias is not None
    assert update.bias.tolist() == [8.0]  # 2 times the mean of 2, 3, 7 and 4


def test_least_squares_by_hand() -> None:
    update = least_squares(WEIGHT, FIRST, moments_of(INPUTS), regularisation=0)
    # E[x0 x0] is 9/2 and E[x0 x1] is 37/4, so x1 is best told by 37/18 x0.
    assert update.weight.item() == pytest.approx(3 + 2 * 37 / 18, rel=1e-6)
    assert update.bias is None
    pulled = least_squares(WEIGHT, FIRST, moments_of(INPUTS), regularisation=1)  # lambda is E[x0 x0]
    assert pulled.weight.item() == pytest.approx(3 + 2 * 37 / 36, rel=1e-6)


def test_least_squares_is_what_numpy_finds() -> None:
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(40, 6)) @ draw.normal(size=(6, 6)) + draw.normal(size=6)
    weight, kept = draw.normal(size=(3, 6)), [0, 2, 3, 5]
    expected, *_ = np.linalg.lstsq(inputs[:, kept], inputs @ weight.T, rcond=None)  # (4, 3)
    found = least_squares(torch.from_numpy(weight), torch.tensor(kept), moments_of(inputs), regularisation=0)
    np.testing.assert_allclose(found.weight.numpy(), expected.T, rtol=1e-4, atol=1e-5)


def test_a_large_regularisation_leaves_the_weights_as_they_are() -> None:
    pulled = least_squares(WEIGHT, FIRST, moments_of(INPUTS), regularisation=1e9)
    assert pulled.weight.item() == pytest.approx(3.0, abs=1e-6)


def test_inputs_that_are_always_zero_explain_nothing() -> None:
    silent = np.column_stack([np.zeros(4), INPUTS[:, 1]])
    assert least_squares(WEIGHT, FIRST, moments_of(silent)).weight.tolist() == [[3.0]]


def test_a_singular_system_says_what_to_do() -> None:
    twice = np.column_stack([INPUTS[:, 0], INPUTS[:, 0], INPUTS[:, 1]])
    moments = moments_of(twice)
    with pytest.raises(CompensationError, match="Raise the regularisation"):
        least_squares(torch.ones(1, 3), torch.tensor([0, 1]), moments, regularisation=-1e-3)


def test_padding_does_not_count(tiny_lm: LM) -> None:
    short = draw_set(tiny_lm, 3, 9)
    tokens = np.concatenate([short.tokens, np.full((3, 4), 7)], axis=1)
    mask = np.concatenate([np.ones((3, 9), np.int64), np.zeros((3, 4), np.int64)], axis=1)
    plain, padded = collect_statistics(tiny_lm, short), collect_statistics(tiny_lm, CalibrationSet(tokens, mask))
    assert padded.tokens == plain.tokens == {"decoder": 27}
    for site, moments in plain.items():
        np.testing.assert_allclose(padded[site].mean, moments.mean, atol=1e-5)
        assert padded[site].second == pytest.approx(moments.second, abs=1e-4)


def test_sets_accumulate(tiny_lm: LM) -> None:
    sets = [draw_set(tiny_lm, 4, seed=1), draw_set(tiny_lm, 2, 31, seed=2)]
    together, added = collect_statistics(tiny_lm, sets), collect_statistics(tiny_lm, sets[0])
    added = added + collect_statistics(tiny_lm, sets[1])
    assert together.tokens == added.tokens == {"decoder": 4 * 20 + 2 * 31}
    assert [each["seed"] for each in together.sets] == [each["seed"] for each in added.sets] == [1, 2]
    for site, moments in together.items():
        np.testing.assert_allclose(added[site].mean, moments.mean, atol=1e-6)
        assert added[site].second == pytest.approx(moments.second, rel=1e-4, abs=1e-6)


def test_statistics_come_back_from_bytes(tiny_lm: LM, statistics: Statistics) -> None:
    means = collect_statistics(tiny_lm, draw_set(tiny_lm), second_moments=False)
    for each in (statistics, means):
        again = Statistics.from_bytes(each.to_bytes())
        assert again.hash == each.hash and again.has_second == each.has_second
        assert (again.tokens, again.sets, again.model_hash) == (each.tokens, each.sets, each.model_hash)
    assert means.hash != statistics.hash and means.size < statistics.size / 10
    assert statistics.size == statistics_bytes((32, 48) * 3) + sum(8 * (32 + 48) for _ in range(3))


def test_the_same_tokens_give_the_same_model(tiny_lm: LM, statistics: Statistics) -> None:
    again, plan = collect_statistics(tiny_lm, draw_set(tiny_lm)), some_plan(tiny_lm)
    assert again.hash == statistics.hash
    first, second = (prune(tiny_lm, plan, compensation="least_squares", statistics=s) for s in (statistics, again))
    assert first.hash == second.hash
    mine, yours = first.weights().state_dict(), second.weights().state_dict()
    assert mine.keys() == yours.keys() and all(torch.equal(mine[name], yours[name]) for name in mine)


def test_models_that_were_compensated_otherwise_have_other_hashes(tiny_lm: LM, statistics: Statistics) -> None:
    plan = some_plan(tiny_lm)
    made = [
        prune(tiny_lm, plan, statistics=statistics),
        prune(tiny_lm, plan, compensation="bias", statistics=statistics),
        prune(tiny_lm, plan, compensation="least_squares", statistics=statistics),
        prune(tiny_lm, plan, compensation="least_squares", statistics=statistics, regularisation=0.1),
    ]
    assert len({lm.hash for lm in made}) == 4
    assert [[record["method"] for record in lm.compensations] for lm in made] == [
        [], ["bias"], ["least_squares"], ["least_squares"]
    ]  # fmt: skip
    record = made[2].compensations[0]
    assert record["tokens"] == {"decoder": 120} and record["statistics_hash"] == statistics.hash


def test_the_dense_model_is_left_alone(tiny_lm: LM, statistics: Statistics) -> None:
    before = {name: value.clone() for name, value in tiny_lm.weights().state_dict().items()}
    small = prune(tiny_lm, some_plan(tiny_lm), compensation="least_squares", statistics=statistics)
    after = tiny_lm.weights().state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(weight.requires_grad for weight in small.weights().parameters())


def test_biases_that_are_there_are_added_to(make_lm: Callable[..., LM]) -> None:
    lm = make_lm(attention_bias=True, mlp_bias=True)
    statistics, plan = collect_statistics(lm, draw_set(lm)), some_plan(lm)
    plain, small = prune(lm, plan), prune(lm, plan, compensation="bias", statistics=statistics)
    assert small.layout == plain.layout, "no bias is new"
    dense, layer, cut = (model.weights().model.layers[1].mlp.down_proj for model in (lm, small, plain))
    removed = np.setdiff1d(np.arange(48), plan[Site("decoder", 1, MLP)])
    mean = statistics[Site("decoder", 1, MLP)].mean[removed]
    np.testing.assert_allclose(
        layer.bias.numpy(), dense.bias.numpy() + dense.weight.numpy()[:, removed] @ mean, atol=1e-5
    )
    assert torch.equal(layer.weight, cut.weight)


def test_half_precision_keeps_its_dtype(make_lm: Callable[..., LM]) -> None:
    lm = make_lm(dtype="bfloat16")
    statistics = collect_statistics(lm, draw_set(lm))
    small = prune(lm, some_plan(lm), compensation="least_squares", statistics=statistics)
    assert {weight.dtype for weight in small.weights().parameters()} == {torch.bfloat16}


def test_what_is_missing_or_foreign_is_refused(tiny_lm: LM, make_lm: Callable[..., LM], statistics: Statistics) -> None:
    plan = some_plan(tiny_lm)
    with pytest.raises(CompensationError, match="needs statistics"):
        prune(tiny_lm, plan, compensation="bias")
    with pytest.raises(CompensationError, match="no compensation 'wish'"):
        prune(tiny_lm, plan, compensation="wish", statistics=statistics)  # type: ignore[arg-type]
    with pytest.raises(CompensationError, match="of another model"):
        prune(tiny_lm, plan, compensation="bias", statistics=collect_statistics(make_lm(seed=4), draw_set(tiny_lm)))
    means = collect_statistics(tiny_lm, draw_set(tiny_lm), second_moments=False)
    with pytest.raises(CompensationError, match="second moments"):
        prune(tiny_lm, plan, compensation="least_squares", statistics=means)
    with pytest.raises(CompensationError, match="regularisation"):
        prune(tiny_lm, plan, compensation="least_squares", statistics=statistics, regularisation=float("nan"))
    with pytest.raises(CompensationError, match="means only"):
        statistics + means
    with pytest.raises(CompensationError, match="different models"):
        statistics + replace(statistics, model_hash="other")
    with pytest.raises(CompensationError, match="no calibration set"):
        collect_statistics(tiny_lm, [])
    with pytest.raises(SaliencyError, match="token ids"):
        collect_statistics(tiny_lm, CalibrationSet([[100_000, 3]]))


def test_values_that_are_not_finite_are_refused(statistics: Statistics) -> None:
    site = Site("decoder", 0, ATTENTION)
    broken = {**statistics.moments, site: Moments(statistics[site].mean * np.nan, statistics[site].second)}
    with pytest.raises(CompensationError, match=r"decoder\.0\.attention are not finite"):
        replace(statistics, moments=broken)


def test_memory_is_asked_for_before_it_is_taken(tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_module, "available_memory", lambda device: 40_000)
    with pytest.raises(CompensationError, match=r"39,936 bytes") as caught:
        collect_statistics(tiny_lm, draw_set(tiny_lm))
    assert "bias" in caught.value.hint
    collect_statistics(tiny_lm, draw_set(tiny_lm), second_moments=False)


def test_collection_can_be_cancelled_and_leaves_no_hooks(tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    calls: list[str] = []
    register: Any = torch.nn.Module.register_forward_pre_hook

    def counted(module: torch.nn.Module, hook: Any, **options: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append("hook")
            return hook(*arguments)

        return register(module, call, **options)

    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", counted)

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        collect_statistics(tiny_lm, draw_set(tiny_lm), progress=stop)
    assert seen[-1] == Progress("Collecting statistics", 2, 6)
    during = len(calls)
    tiny_lm.weights()(input_ids=torch.tensor([[5, 6, 7]]))
    assert len(calls) == during > 0


def test_a_sequence_of_plans_keeps_both_records(tiny_lm: LM, statistics: Statistics) -> None:
    once = prune(tiny_lm, some_plan(tiny_lm), compensation="least_squares", statistics=statistics)
    with pytest.raises(CompensationError, match="of another model"):
        prune(once, some_plan(once, seed=1), compensation="bias", statistics=statistics)
    again = collect_statistics(once, draw_set(tiny_lm))
    twice = prune(once, some_plan(once, seed=1), compensation="bias", statistics=again)
    assert [record["method"] for record in twice.compensations] == ["least_squares", "bias"]
    assert twice.layout.parameters == sum(weight.numel() for weight in twice.weights().parameters())


def test_public_names() -> None:
    assert nv.collect_statistics is collect_statistics and nv.Statistics is Statistics


def test_removed_layers_take_their_biases_with_them(tiny_lm: LM, statistics: Statistics) -> None:
    once = prune(tiny_lm, some_plan(tiny_lm), compensation="bias", statistics=statistics)
    plan: PruningPlan = some_plan(once, share=1.0, removed_layers=(("decoder", 1),))
    shorter = prune(once, plan)
    assert shorter.layout.parameters == sum(weight.numel() for weight in shorter.weights().parameters())
