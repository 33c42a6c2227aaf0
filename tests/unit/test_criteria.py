"""Each criterion against a few lines of its paper, written out on a tiny model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import SaliencyError
from nirvana.forward.bounds import BATCH_TOKENS
from nirvana.layout import ATTENTION, MLP, Site
from nirvana.models.lm import LM
from nirvana.saliency.budget import MICRO_BATCHES, RECOMPUTE
from nirvana.saliency.criteria import CRITERIA, available, published_allocation
from nirvana.saliency.request import Strategy
from nirvana.saliency.score import score
from nirvana.saliency.scores import Saliency
from tests.oracle import all_logits, gradient_scores, loss_scores, nirvana_scores

MakeLM = Callable[..., LM]


def tokens(samples: int = 4, length: int = 10, *, padded: bool = False) -> CalibrationSet:
    ids = np.random.default_rng(7).integers(2, 258, (samples, length))
    mask = np.ones_like(ids)
    mask[1, 6:] = 0
    return CalibrationSet(ids, mask if padded else None)


def agree(found: Saliency, expected: dict[Site, np.ndarray], tolerance: float = 1e-4) -> None:
    for site, values in expected.items():
        largest = np.abs(values).max()
        np.testing.assert_allclose(found[site], values, atol=tolerance * largest, rtol=0, err_msg=site.key)


def test_criteria_say_how_they_are_published() -> None:
    found = {name: published_allocation(name) for name in available()}
    assert (found["nirvana"], found["magnitude"], found["taylor"]) == ("shared", "per-layer", "per-layer-middle")
    assert all(criterion.title and criterion.description for criterion in CRITERIA.values())
    with pytest.raises(SaliencyError, match="no criterion"):
        published_allocation("obd")


@pytest.mark.parametrize("strategy", [MICRO_BATCHES, RECOMPUTE])
@pytest.mark.parametrize("padded", [False, True])
def test_taylor_is_weight_times_gradient_of_the_loss(
    make_lm: MakeLM, monkeypatch: pytest.MonkeyPatch, strategy: Strategy, padded: bool
) -> None:
    lm, calibration = make_lm(tie_word_embeddings=padded), tokens(padded=padded)
    monkeypatch.setattr("nirvana.saliency.taylor.CHUNK", 700)  # 2 positions
    agree(score(lm, calibration, criterion="taylor", strategy=strategy), loss_scores(lm, calibration))


def test_taylor_needs_something_to_predict(tiny_lm: LM) -> None:
    with pytest.raises(SaliencyError, match="predict nothing"):
        score(tiny_lm, CalibrationSet([[5], [6]]), criterion="taylor")


@pytest.mark.parametrize("padded", [False, True])
def test_the_vocabularys_maximum_is_taken_at_every_position(
    make_lm: MakeLM, monkeypatch: pytest.MonkeyPatch, padded: bool
) -> None:
    lm, calibration = make_lm(), tokens(padded=padded)

    def objective() -> torch.Tensor:
        highest = all_logits(lm, calibration).max(dim=2).values  # (B, T)
        return highest[highest.isfinite()].mean()

    monkeypatch.setattr("nirvana.saliency.nirvana_vocab.CHUNK", 100)
    agree(score(lm, calibration, criterion="nirvana-vocab"), gradient_scores(lm, objective))


@pytest.mark.parametrize("strategy", [MICRO_BATCHES, RECOMPUTE])
def test_per_sample_scores_are_the_mean_of_each_samples_own(make_lm: MakeLM, strategy: Strategy) -> None:
    lm, calibration = make_lm(), tokens()
    each = [nirvana_scores(lm, CalibrationSet(row[None])) for row in calibration.tokens]
    expected = {site: np.mean([scores[site] for scores in each], axis=0) for site in lm.layout}
    found = score(lm, calibration, criterion="nirvana-per-sample", strategy=strategy)
    agree(found, expected)
    assert found.details["micro_batch"] == 1
    whole = score(lm, calibration)
    assert all((found[site] > whole[site]).all() for site in lm.layout)  # a sum of absolute values is no less


def projection_inputs(lm: LM, calibration: CalibrationSet, *, layer: int) -> dict[str, np.ndarray]:
    """What o_proj and down_proj of a layer read at the tokens that count: float64 (tokens, d)."""
    block, found = lm.weights().model.layers[layer], dict[str, np.ndarray]()
    seen = slice(None) if calibration.mask is None else calibration.mask.astype(bool)
    modules = {ATTENTION: block.self_attn.o_proj, MLP: block.mlp.down_proj}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: found.__setitem__(name, inputs[0].numpy()))
        for name, module in modules.items()
    ]
    with torch.no_grad():
        all_logits(lm, calibration)
    for handle in handles:
        handle.remove()
    return {name: values[seen].reshape(-1, values.shape[-1]).astype(np.float64) for name, values in found.items()}


def output_weights(lm: LM, layer: int) -> dict[str, np.ndarray]:
    block = lm.weights().model.layers[layer]
    weights = {ATTENTION: block.self_attn.o_proj.weight, MLP: block.mlp.down_proj.weight}
    return {name: weight.detach().numpy().astype(np.float64) for name, weight in weights.items()}


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples of 10 tokens in a batch."""
    monkeypatch.setitem(BATCH_TOKENS, "cpu", 20)


@pytest.mark.usefixtures("few_at_a_time")
@pytest.mark.parametrize("padded", [False, True])
def test_wanda_sp_is_weight_times_norm_of_what_it_reads(make_lm: MakeLM, padded: bool) -> None:
    lm, calibration = make_lm(), tokens(padded=padded)
    read, weights = projection_inputs(lm, calibration, layer=1), output_weights(lm, 1)
    found = score(lm, calibration, criterion="wanda-sp")
    norms = {name: np.sqrt((inputs**2).sum(axis=0)) for name, inputs in read.items()}
    importance = {name: (np.abs(weights[name]) * norms[name]).mean(axis=0) for name in norms}
    np.testing.assert_allclose(found[Site("decoder", 1, MLP)], importance[MLP], rtol=1e-4)
    groups = [importance[ATTENTION][:16].sum(), importance[ATTENTION][16:].sum()]  # 2 query heads of 8
    np.testing.assert_allclose(found[Site("decoder", 1, ATTENTION)], groups, rtol=1e-4)


@pytest.mark.usefixtures("few_at_a_time")
@pytest.mark.parametrize("padded", [False, True])
def test_flap_is_the_standardised_fluctuation(make_lm: MakeLM, padded: bool) -> None:
    lm, calibration = make_lm(), tokens(padded=padded)
    read, weights = projection_inputs(lm, calibration, layer=2), output_weights(lm, 2)
    found = score(lm, calibration, criterion="flap")
    metric = {name: read[name].var(axis=0) * (weights[name] ** 2).sum(axis=0) for name in read}
    mlp = (metric[MLP] - metric[MLP].mean()) / metric[MLP].std(ddof=1)
    np.testing.assert_allclose(found[Site("decoder", 2, MLP)], mlp, rtol=1e-3, atol=1e-4)
    squared = metric[ATTENTION] ** 2
    attention = (squared - squared.mean()) / squared.std(ddof=1)
    groups = [attention[:16].mean(), attention[16:].mean()]
    np.testing.assert_allclose(found[Site("decoder", 2, ATTENTION)], groups, rtol=1e-3, atol=1e-4)
    assert (CRITERIA["flap"].published, CRITERIA["flap"].compensation) == ("joint", "bias")


def test_flaps_layer_of_equal_features_scores_zero(make_lm: MakeLM) -> None:
    lm = make_lm()
    with torch.no_grad():
        lm.weights().model.layers[0].mlp.down_proj.weight.zero_()
    found = score(lm, tokens(), criterion="flap")
    assert not found[Site("decoder", 0, MLP)].any()


@pytest.mark.usefixtures("few_at_a_time")
@pytest.mark.parametrize("padded", [False, True])
def test_block_influence_is_the_turn_of_the_hidden_states(make_lm: MakeLM, padded: bool) -> None:
    lm, calibration = make_lm(), tokens(padded=padded)
    with torch.no_grad():
        output = lm.weights().model(
            input_ids=calibration.input_ids, attention_mask=calibration.attention_mask, output_hidden_states=True
        )
    # The library's last hidden states are those after the final norm, so the last layer is left to the next test.
    before, after = (output.hidden_states[index].double() for index in (1, 2))
    cosine = (before * after).sum(dim=2) / before.norm(dim=2) / after.norm(dim=2)
    seen = torch.ones_like(cosine) if calibration.attention_mask is None else calibration.attention_mask
    expected = 1 - float((cosine * seen).sum() / seen.sum())
    found = score(lm, calibration, criterion="block-influence")
    for module in (ATTENTION, MLP):
        assert found[Site("decoder", 1, module)] == pytest.approx(expected, rel=1e-4)


def test_a_layer_that_adds_nothing_has_no_influence(make_lm: MakeLM) -> None:
    lm = make_lm()
    block = lm.weights().model.layers[2]
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    found = score(lm, tokens(), criterion="block-influence")
    assert found[Site("decoder", 2, MLP)] == pytest.approx(0, abs=1e-6)
    assert (found[Site("decoder", 1, MLP)] > 1e-3).all()
