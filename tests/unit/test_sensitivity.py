"""The sensitivity scan against pruning each site by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nirvana as nv
from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import PlanError
from nirvana.evaluation.divergence import divergence
from nirvana.layout import ATTENTION, CROSS_ATTENTION
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.plan import PruningPlan
from nirvana.progress import Progress
from nirvana.surgery import prune
from tests.conftest import english
from tests.families import test_t5 as makers

TEXT = "\n\n".join(english(20, seed=4))


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> LM:
    folder = tmp_path_factory.mktemp("models") / "t5"
    makers.T5Tests.write(folder)
    return load_model(folder, device="cpu")


def probe_of(lm: LM, tmp_path: Path) -> CalibrationSet:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return nv.sample_probe(lm, str(path), samples=4, length=16)


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_each_site_is_pruned_alone(rate: float, tiny_lm: LM, tmp_path: Path) -> None:
    probe, scores = probe_of(tiny_lm, tmp_path), nv.score(tiny_lm, None, criterion="random")
    before = {name: value.clone() for name, value in tiny_lm.weights().state_dict().items()}
    found = nv.sensitivity(tiny_lm, scores, probe, rate=rate)
    assert list(found) == list(tiny_lm.layout)
    for site, place in tiny_lm.layout.items():
        count = 1 if place.units == 2 else round(rate * 48)
        kept = {other: np.arange(where.units) for other, where in tiny_lm.layout.items()}
        kept[site] = np.sort(np.argsort(scores[site])[count:])
        small = prune(tiny_lm, PruningPlan(kept, tiny_lm.layout, requested=0.1, gamma=1.0))
        expected = divergence(tiny_lm, small, probe)
        assert found[site].kl == pytest.approx(expected.mean, rel=1e-3, abs=1e-6) and found[site].kl > 1e-4
        assert found[site].standard_error == pytest.approx(expected.standard_error, rel=1e-2, abs=1e-6)
        assert (found[site].removed, found[site].units) == (count, place.units)
    after = tiny_lm.weights().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_encoder_decoders_are_scanned_whole(t5: LM, tmp_path: Path) -> None:
    found = nv.sensitivity(t5, nv.score(t5, None, criterion="magnitude"), probe_of(t5, tmp_path))
    assert {(site.stack, site.module) for site in found} >= {("encoder", ATTENTION), ("decoder", CROSS_ATTENTION)}
    assert all(shift.kl > 0 for shift in found.values())


def test_the_weights_come_back_after_an_interruption(tiny_lm: LM, tmp_path: Path) -> None:
    probe, scores = probe_of(tiny_lm, tmp_path), nv.score(tiny_lm, None, criterion="random")
    before = {name: value.clone() for name, value in tiny_lm.weights().state_dict().items()}

    def stop(progress: Progress) -> None:
        if "mlp" in progress.stage and progress.fraction > 0.2:
            raise nv.Cancelled

    with pytest.raises(nv.Cancelled):
        nv.sensitivity(tiny_lm, scores, probe, progress=stop)
    after = tiny_lm.weights().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_scan_says_how_it_was_measured_and_survives_json(tiny_lm: LM, tmp_path: Path) -> None:
    probe = probe_of(tiny_lm, tmp_path)
    found = nv.sensitivity(tiny_lm, nv.score(tiny_lm, None, criterion="random"), probe, rate=0.3)
    assert found.protocol == {
        "rate": 0.3,
        "criterion": "random",
        "samples": 4,
        "length": 16,
        "probe": probe.hash,
        "device": "cpu",
        "dtype": "float32",
    }
    again = nv.Sensitivity.from_json(json.loads(json.dumps(found.to_json())))
    assert dict(again) == dict(found) and again.protocol == found.protocol


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_rates_are_refused(rate: float, tiny_lm: LM, tmp_path: Path) -> None:
    scores = nv.score(tiny_lm, None, criterion="random")
    with pytest.raises(PlanError, match="between 0 and 1"):
        nv.sensitivity(tiny_lm, scores, probe_of(tiny_lm, tmp_path), rate=rate)


def test_scores_of_another_model_are_refused(tiny_lm: LM, t5: LM, tmp_path: Path) -> None:
    scores = nv.score(t5, None, criterion="random")
    with pytest.raises(PlanError, match="another shape"):
        nv.sensitivity(tiny_lm, scores, probe_of(tiny_lm, tmp_path))
