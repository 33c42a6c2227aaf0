"""Each criterion against a few lines of its paper, written out on a tiny model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import SaliencyError
from nirvana.layout import Site
from nirvana.models.lm import LM
from nirvana.saliency import CRITERIA, Strategy, available, published_allocation, score
from nirvana.saliency.budget import MICRO_BATCHES, RECOMPUTE
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
