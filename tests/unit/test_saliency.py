"""Scores against a slow oracle, and what scoring promises besides: memory budget, cancellation, clear refusals."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import nirvana
from nirvana.allocation.allocate import allocate
from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import Cancelled, CompensationError, SaliencyError
from nirvana.layout import ATTENTION, MLP, Site
from nirvana.models.lm import LM
from nirvana.progress import Progress
from nirvana.saliency import first_order
from nirvana.saliency.budget import MICRO_BATCHES, RECOMPUTE, Choice, choose, estimate
from nirvana.saliency.criteria import available, find_criterion
from nirvana.saliency.request import Strategy
from nirvana.saliency.score import score
from nirvana.saliency.scores import Saliency
from tests.oracle import nirvana_scores

MakeLM = Callable[..., LM]


def tokens(samples: int = 5, length: int = 12, *, padded: bool = False, seed: int = 0) -> CalibrationSet:
    draw = np.random.default_rng(seed)
    ids = draw.integers(2, 258, (samples, length))
    mask = None
    if padded:
        mask = np.ones_like(ids)
        mask[1, :4] = 0
        mask[3, 7:] = 0
    return CalibrationSet(ids, mask)


def largest_error(found: Saliency, expected: dict[Site, np.ndarray]) -> float:
    """As a share of the largest score."""
    worst = max(float(np.abs(found[site] - values).max()) for site, values in expected.items())
    return worst / max(float(values.max()) for values in expected.values())


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """`choosing("recompute", 2)`: scoring runs that way, whatever an estimate says."""

    def choosing(strategy: str, micro_batch: int) -> None:
        monkeypatch.setattr(first_order, "choose", lambda *_, **__: Choice(strategy, micro_batch, 0))

    return choosing


@pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["MHA", "GQA", "MQA"])
@pytest.mark.parametrize("padded", [False, True])
def test_scores_are_the_oracles_for_every_strategy_and_micro_batch(
    make_lm: MakeLM, choosing: Callable[[str, int], None], kv_heads: int, padded: bool
) -> None:
    lm = make_lm(kv_heads=kv_heads, tie_word_embeddings=padded)
    calibration = tokens(padded=padded)
    expected = nirvana_scores(lm, calibration)
    for strategy in (MICRO_BATCHES, RECOMPUTE):
        for micro_batch in (1, 2, 5):
            choosing(strategy, micro_batch)
            found = score(lm, calibration)
            assert found.details["micro_batch"] == micro_batch
            assert largest_error(found, expected) < 1e-4, (strategy, micro_batch)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("strategy", [MICRO_BATCHES, RECOMPUTE])
def test_half_precision_scores_are_close_to_the_oracles(
    make_lm: MakeLM, choosing: Callable[[str, int], None], dtype: str, strategy: Strategy
) -> None:
    calibration = tokens(16)
    expected = nirvana_scores(make_lm(), calibration)
    choosing(strategy, 2)
    assert largest_error(score(make_lm(dtype=dtype), calibration), expected) < 0.15


def test_half_precision_micro_batches_are_accumulated_in_float32(
    make_lm: MakeLM, choosing: Callable[[str, int], None]
) -> None:
    lm = make_lm(dtype="bfloat16")
    one = tokens(1)
    repeated = CalibrationSet(np.repeat(one.tokens, 64, axis=0))
    choosing(MICRO_BATCHES, 1)
    expected = score(lm, one)
    found = score(lm, repeated)  # the mean of 64 equal samples; in bfloat16 the sum would stall
    assert largest_error(found, dict(expected)) < 1e-5


def test_an_identical_call_gives_identical_scores_and_plans(tiny_lm: LM) -> None:
    for criterion in available():
        first, second = (score(tiny_lm, tokens(), criterion=criterion, seed=4) for _ in range(2))
        assert first.hash == second.hash
        plans = [allocate(saliency, sparsity=0.3).to_json() for saliency in (first, second)]
        assert plans[0] == plans[1]


def test_scores_survive_their_bytes(tiny_lm: LM) -> None:
    saliency = score(tiny_lm, tokens())
    again = Saliency.from_bytes(saliency.to_bytes())
    assert again.hash == saliency.hash
    assert (again.layout, again.details) == (saliency.layout, saliency.details)
    assert again.calibration_hash == tokens().hash


def test_magnitude_is_the_sum_of_absolute_weights(make_lm: MakeLM) -> None:
    lm = make_lm()
    found = score(lm, None, criterion="magnitude")
    layers: Any = lm.weights()
    layer = layers.model.layers[1]
    attention, mlp = layer.self_attn, layer.mlp
    for group in range(2):
        rows = [attention.q_proj.weight[16 * group : 16 * group + 16], attention.o_proj.weight.T[16 * group :][:16]]
        rows += [part.weight[8 * group : 8 * group + 8] for part in (attention.k_proj, attention.v_proj)]
        expected = sum(float(part.abs().sum()) for part in rows)
        assert found[Site("decoder", 1, ATTENTION)][group] == pytest.approx(expected, rel=1e-5)
    for neuron in (0, 17, 47):
        parts = [mlp.gate_proj.weight[neuron], mlp.up_proj.weight[neuron], mlp.down_proj.weight[:, neuron]]
        expected = sum(float(part.abs().sum()) for part in parts)
        assert found[Site("decoder", 1, MLP)][neuron] == pytest.approx(expected, rel=1e-5)


def test_random_depends_on_its_seed_alone(tiny_lm: LM) -> None:
    first, other = (score(tiny_lm, None, criterion="random", seed=seed) for seed in (1, 2))
    assert first.hash != other.hash
    assert first.hash == score(tiny_lm, tokens(), criterion="random", seed=1).hash


def test_long_layers_are_reduced_piece_by_piece(make_lm: MakeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, calibration = make_lm(kv_heads=1), tokens()
    whole = score(lm, calibration)
    monkeypatch.setattr("nirvana.saliency.units.CHUNK", 100)
    assert largest_error(score(lm, calibration), dict(whole)) < 1e-6


def test_the_vocabulary_is_read_in_chunks(make_lm: MakeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, calibration = make_lm(), tokens(padded=True)
    whole = score(lm, calibration)
    monkeypatch.setattr("nirvana.saliency.nirvana.CHUNK", 100)
    assert largest_error(score(lm, calibration), dict(whole)) < 1e-6


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("criterion", [name for name in available() if find_criterion(name).reads != "nothing"])
def test_activations_that_are_not_finite_are_refused(make_lm: MakeLM, criterion: str, value: float) -> None:
    lm = make_lm()
    with torch.no_grad():
        lm.family.embeddings(lm.weights()).weight[:] = value
    with pytest.raises((SaliencyError, CompensationError), match="not finite"):
        score(lm, tokens(), criterion=criterion)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("criterion", [name for name in available() if name != "random"])  # which reads no weights
def test_weights_of_a_layer_that_are_not_finite_are_refused(make_lm: MakeLM, criterion: str, value: float) -> None:
    lm = make_lm()
    with torch.no_grad():
        lm.weights().get_parameter("model.layers.1.mlp.down_proj.weight")[:, 3] = value
    with pytest.raises((SaliencyError, CompensationError), match="not finite"):
        score(lm, tokens(), criterion=criterion)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("criterion", available())
def test_scores_that_are_not_finite_are_refused(tiny_lm: LM, criterion: str, value: float) -> None:
    scored = score(tiny_lm, tokens(), criterion=criterion)
    scores = {site: values.copy() for site, values in scored.items()}
    next(iter(scores.values()))[0] = value
    with pytest.raises(SaliencyError, match="not finite"):
        replace(scored, scores=scores)


def test_a_budget_decides_between_speed_and_memory(tiny_lm: LM) -> None:
    fast = estimate(tiny_lm.sizes, 4, 8, MICRO_BATCHES, 1)
    small = estimate(tiny_lm.sizes, 4, 8, RECOMPUTE, 1)
    assert small < fast
    assert choose(tiny_lm.sizes, 4, 8).strategy == MICRO_BATCHES
    assert choose(tiny_lm.sizes, 4, 8, memory=fast) == Choice(MICRO_BATCHES, 1, fast)
    assert choose(tiny_lm.sizes, 4, 8, memory=fast - 1).strategy == RECOMPUTE
    assert choose(tiny_lm.sizes, 4, 8, strategy=RECOMPUTE).strategy == RECOMPUTE
    with pytest.raises(SaliencyError, match="may be used"):
        score(tiny_lm, tokens(4, 8), memory=small - 1)


@pytest.mark.parametrize("strategy", [MICRO_BATCHES, RECOMPUTE])
def test_cancelling_stops_at_once_and_leaves_the_model_as_it_was(make_lm: MakeLM, strategy: Strategy) -> None:
    lm = make_lm()
    lm.weights().model.norm.weight.requires_grad_(True)
    before = {name: p.requires_grad for name, p in lm.weights().named_parameters()}
    total = _reports(lm, strategy)[-1].total
    for stop in (1, total // 3, total - 2):
        seen: list[Progress] = []

        def cancel(report: Progress, seen: list[Progress] = seen, stop: int = stop) -> None:
            seen.append(report)
            if report.done >= stop:
                raise Cancelled

        with pytest.raises(Cancelled):
            score(lm, tokens(), strategy=strategy, progress=cancel)
        assert seen[-1].done == stop
        assert {name: p.requires_grad for name, p in lm.weights().named_parameters()} == before
        assert all(p.grad is None for p in lm.weights().parameters())
        assert torch.is_grad_enabled()
    assert largest_error(score(lm, tokens(), strategy=strategy), nirvana_scores(lm, tokens())) < 1e-4


def _reports(lm: LM, strategy: Strategy) -> list[Progress]:
    seen: list[Progress] = []
    score(lm, tokens(), strategy=strategy, progress=seen.append)
    return seen


@pytest.mark.parametrize("strategy", [MICRO_BATCHES, RECOMPUTE])
def test_progress_ends_where_it_said_it_would(tiny_lm: LM, strategy: Strategy) -> None:
    seen = _reports(tiny_lm, strategy)
    assert [report.done for report in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].done == seen[-1].total


def test_unknown_names_are_refused_with_the_known_ones(tiny_lm: LM) -> None:
    with pytest.raises(SaliencyError, match=", ".join(available())):
        score(tiny_lm, tokens(), criterion="obd")
    with pytest.raises(SaliencyError, match="negative"):
        score(tiny_lm, None, criterion="random", seed=-1)
    with pytest.raises(SaliencyError, match="micro-batches"):
        score(tiny_lm, tokens(), strategy="fast")  # type: ignore[arg-type]


def test_tokens_that_the_model_does_not_know_are_refused(tiny_lm: LM) -> None:
    with pytest.raises(SaliencyError, match=r"outside 0\.\.257"):
        score(tiny_lm, CalibrationSet([[1, 2, 258]]))
    with pytest.raises(SaliencyError, match="padding only"):
        score(tiny_lm, CalibrationSet([[1, 2], [3, 4]], [[1, 1], [0, 0]]))
    with pytest.raises(SaliencyError, match="calibration set"):
        score(tiny_lm, None)


@pytest.mark.smollm2
def test_smollm2_is_pruned_to_the_sparsity_asked_for(smollm2: LM) -> None:
    calibration = CalibrationSet(np.random.default_rng(0).integers(0, 49152, (2, 16)))
    saliency = score(smollm2, calibration)
    for sparsity in (0.2, 0.5):
        plan = allocate(saliency, sparsity=sparsity, gamma=3.36)
        assert abs(plan.sparsity - sparsity) < 0.0005
    small = nirvana.prune(smollm2, plan)
    removed = smollm2.layout.parameters - sum(p.numel() for p in small.weights().parameters())
    assert removed == plan.removed
    assert "4-bit origin" in small.source.note


@pytest.mark.smollm2
def test_smollm2_scoring_can_be_stopped_within_a_second(smollm2: LM) -> None:
    reports: list[float] = []
    ids = np.random.default_rng(0).integers(0, 49152, (4, 128))
    score(smollm2, CalibrationSet(ids), progress=lambda _: reports.append(time.process_time()))
    assert np.quantile(np.diff(reports), 0.999) < 1.0  # of the process's own time, whatever else runs here


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", [MICRO_BATCHES, RECOMPUTE])
def test_scores_on_an_accelerator_are_the_oracles(tiny_folder: object, strategy: Strategy, accelerator: str) -> None:
    lm = nirvana.load_model(str(tiny_folder), device=accelerator, dtype="float32")
    expected = nirvana_scores(nirvana.load_model(str(tiny_folder), device="cpu"), tokens())
    assert largest_error(score(lm, tokens(), strategy=strategy), expected) < 1e-3
