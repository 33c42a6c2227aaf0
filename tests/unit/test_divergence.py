"""KL(dense || pruned) equals the full computation, whichever way the dense side is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import Cancelled, CorpusError, ModelError
from nirvana.evaluation.divergence import dense_reference, divergence
from nirvana.forward import bounds
from nirvana.progress import Progress

if TYPE_CHECKING:
    from nirvana.models.lm import LM


@pytest.fixture(scope="module")
def probe() -> CalibrationSet:
    return CalibrationSet(np.random.default_rng(0).integers(0, 258, (40, 24)))


@pytest.fixture(scope="module")
def other_lm(make_lm: Callable[..., LM]) -> LM:
    return make_lm(seed=1)


def full(dense: LM, pruned: LM, probe: CalibrationSet) -> np.ndarray:
    with torch.no_grad():
        log_p, log_q = (
            torch.log_softmax(lm.weights()(input_ids=probe.input_ids).logits.double(), -1) for lm in (dense, pruned)
        )
    kl: np.ndarray = (log_p.exp() * (log_p - log_q)).sum(-1).numpy()
    return kl


@pytest.mark.parametrize("keep_bytes", [0, 1 << 30])
@pytest.mark.parametrize("chunk_logits", [1 << 24, 7 * 258])
def test_it_equals_the_full_computation(
    tiny_lm: LM,
    other_lm: LM,
    probe: CalibrationSet,
    keep_bytes: int,
    chunk_logits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "CHUNK_LOGITS", chunk_logits)
    reference = dense_reference(tiny_lm, probe, keep_bytes=keep_bytes)
    assert (reference.hidden is None) == (keep_bytes > 0)
    result = divergence(tiny_lm, other_lm, probe, reference=reference)
    expected = full(tiny_lm, other_lm, probe)
    assert result.per_token.shape == (40, 24) and result.per_token.dtype == np.float32
    np.testing.assert_allclose(result.per_token, expected, rtol=1e-4, atol=1e-5)
    assert expected.mean() > 0.05
    assert result.mean == pytest.approx(expected.mean(), rel=1e-5)
    np.testing.assert_allclose(result.per_sample, expected.mean(1), rtol=1e-4)


def test_both_ways_to_keep_the_dense_side_agree(tiny_lm: LM, other_lm: LM, probe: CalibrationSet) -> None:
    kept, computed = (
        divergence(tiny_lm, other_lm, probe, reference=dense_reference(tiny_lm, probe, keep_bytes=size)).per_token
        for size in (1 << 30, 0)
    )
    np.testing.assert_allclose(kept, computed, atol=1e-6)
    np.testing.assert_array_equal(kept, divergence(tiny_lm, other_lm, probe).per_token)


def test_a_model_does_not_diverge_from_itself(tiny_lm: LM, probe: CalibrationSet) -> None:
    assert not divergence(tiny_lm, tiny_lm, probe).per_token.any()


def test_it_is_not_symmetric_and_never_negative(tiny_lm: LM, other_lm: LM, probe: CalibrationSet) -> None:
    forth, back = divergence(tiny_lm, other_lm, probe), divergence(other_lm, tiny_lm, probe)
    assert (forth.per_token >= 0).all() and forth.mean != pytest.approx(back.mean, rel=1e-3)


def test_the_reference_is_tied_to_its_probe(tiny_lm: LM, other_lm: LM, probe: CalibrationSet) -> None:
    reference = dense_reference(tiny_lm, probe)
    with pytest.raises(CorpusError, match="another probe"):
        divergence(tiny_lm, other_lm, CalibrationSet(probe.tokens[:5]), reference=reference)


def test_probes_that_cannot_be_measured_are_refused(tiny_lm: LM, probe: CalibrationSet) -> None:
    mask = np.ones_like(probe.tokens)
    mask[0, -1] = 0
    with pytest.raises(CorpusError, match="padding"):
        divergence(tiny_lm, tiny_lm, CalibrationSet(probe.tokens, mask))
    with pytest.raises(CorpusError, match="258"):
        dense_reference(tiny_lm, CalibrationSet([[1, 258]]))
    with pytest.raises(ModelError, match="512 positions"):
        dense_reference(tiny_lm, CalibrationSet(np.zeros((1, 513), int)))


def test_outputs_that_are_not_numbers_are_refused(
    tiny_lm: LM, make_lm: Callable[..., LM], probe: CalibrationSet
) -> None:
    broken = make_lm(seed=2)
    with torch.no_grad():
        broken.weights().get_parameter("model.norm.weight")[0] = math.inf
    with pytest.raises(ModelError, match="not numbers"):
        divergence(tiny_lm, broken, probe)


def test_progress_reaches_the_total_and_may_cancel(tiny_lm: LM, other_lm: LM, probe: CalibrationSet) -> None:
    seen: list[Progress] = []
    reference = dense_reference(tiny_lm, probe, progress=seen.append)
    assert seen[-1].done == seen[-1].total == probe.tokens.size
    seen.clear()
    divergence(tiny_lm, other_lm, probe, reference=reference, progress=seen.append)
    assert seen[-1].done == seen[-1].total == probe.tokens.size

    def stop(report: Progress) -> None:
        if report.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        divergence(tiny_lm, other_lm, probe, reference=reference, progress=stop)
