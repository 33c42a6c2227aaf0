"""Loss curves against pruning each site by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nirvana as nv
from nirvana.calibration.kl import Divergence
from nirvana.calibration.sets import CalibrationSet
from nirvana.compensation import METHODS, Compensation
from nirvana.errors import PlanError
from nirvana.evaluation.divergence import divergence
from nirvana.layout import ATTENTION, CROSS_ATTENTION, Site
from nirvana.loss_curves import Shift
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
    return nv.sample_probe(lm, nv.load_corpus(str(path)), samples=4, length=16)


def by_hand(
    lm: LM, scores: nv.Saliency, probe: CalibrationSet, site: Site, count: int, how: dict[str, Any]
) -> Divergence:
    """KL with the `count` lowest-scored units of one site sliced out."""
    kept = {other: np.arange(where.units) for other, where in lm.layout.items()}
    kept[site] = np.sort(np.argsort(scores[site], kind="stable")[count:])
    return divergence(lm, prune(lm, PruningPlan(kept, lm.layout, requested=0.1, gamma=1.0), **how), probe)


@pytest.mark.parametrize("compensation", METHODS)
@pytest.mark.parametrize("model", ["tiny_lm", "t5"])
def test_each_site_is_pruned_alone_at_each_level(
    compensation: Compensation, model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    lm: LM = request.getfixturevalue(model)
    probe, scores = probe_of(lm, tmp_path), nv.score(lm, None, criterion="random")
    how: dict[str, Any] = {"compensation": compensation}
    if compensation != "none":
        how["statistics"] = nv.collect_statistics(lm, nv.sample_calibration(lm, TEXT, samples=8, length=16))
    before = {name: value.clone() for name, value in lm.weights().state_dict().items()}
    found = nv.sensitivity(lm, scores, probe, levels=(0.6, 0.2), **how)
    assert list(found) == list(lm.layout) and found.levels == (0.2, 0.6)
    for site, place in lm.layout.items():
        counts = sorted({max(1, round(level * place.units)) for level in found.levels})
        assert [(point.removed, point.units) for point in found[site]] == [(count, place.units) for count in counts]
        assert found.at(0.6)[site] == found[site][-1] and found.at(0.2)[site] == found[site][0]
        for point in found[site]:
            expected = by_hand(lm, scores, probe, site, point.removed, how)
            assert point.kl == pytest.approx(expected.mean, rel=1e-3, abs=1e-6) and point.kl > 1e-5
            assert point.standard_error == pytest.approx(expected.standard_error, rel=1e-2, abs=1e-6)
    after = lm.weights().state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert not any("forward" in vars(module) for module in lm.weights().modules())


def test_encoder_decoders_are_measured_whole(t5: LM, tmp_path: Path) -> None:
    found = nv.sensitivity(t5, nv.score(t5, None, criterion="magnitude"), probe_of(t5, tmp_path))
    assert {(site.stack, site.module) for site in found} >= {("encoder", ATTENTION), ("decoder", CROSS_ATTENTION)}


def test_an_interrupted_call_continues(t5: LM, tmp_path: Path) -> None:
    probe, scores, kept = probe_of(t5, tmp_path), nv.score(t5, None, criterion="magnitude"), list[nv.Sensitivity]()
    whole, passes = nv.sensitivity(t5, scores, probe, levels=(0.2, 0.5)), list[str]()

    def stop(progress: Progress) -> None:
        if "decoder.1" in progress.stage:
            raise nv.Cancelled

    with pytest.raises(nv.Cancelled):
        nv.sensitivity(t5, scores, probe, levels=(0.2, 0.5), keep=kept.append, progress=stop)
    begun = nv.Sensitivity.from_bytes(kept[-1].to_bytes())
    assert 0 < len(begun) < len(whole)
    rest = nv.sensitivity(
        t5, scores, probe, levels=(0.2, 0.5), known=begun, progress=lambda each: passes.append(each.stage)
    )
    assert rest.to_json() == whole.to_json(), "bit for bit, in the order of the model"
    assert not any(site.key in stage for site in begun for stage in passes)
    with pytest.raises(PlanError, match="another protocol"):
        nv.sensitivity(t5, scores, probe, levels=(0.3,), known=begun)


def test_progress_counts_the_work_that_is_left(tiny_lm: LM, tmp_path: Path) -> None:
    probe, seen = probe_of(tiny_lm, tmp_path), list[Progress]()
    scores = nv.score(tiny_lm, None, criterion="random")
    nv.sensitivity(tiny_lm, scores, probe, levels=(0.2, 0.5), progress=seen.append)
    done = [each.done for each in seen]
    assert done == sorted(done) and done[-1] == seen[-1].total
    first, last = (next(each.fraction for each in seen if f"decoder.{layer}.mlp" in each.stage) for layer in (0, 1))
    assert 0 < first < last < 1


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
    probe, scores = probe_of(tiny_lm, tmp_path), nv.score(tiny_lm, None, criterion="random")
    found = nv.sensitivity(tiny_lm, scores, probe, levels=(0.3,))
    assert found.protocol == {
        "levels": [0.3],
        "criterion": "random",
        "scores": scores.hash,
        "model": tiny_lm.hash,
        "compensation": {},
        "samples": 4,
        "length": 16,
        "probe": probe.hash,
        "device": "cpu",
        "dtype": "float32",
    }
    again = nv.Sensitivity.from_json(json.loads(json.dumps(found.to_json())))
    assert dict(again) == dict(found) and again.protocol == found.protocol and again.hash == found.hash


def test_a_scan_of_one_rate_that_was_saved_before_is_read() -> None:
    shift = Shift(kl=0.5, standard_error=0.1, removed=1, units=4)
    old = {"version": 1, "protocol": {"rate": 0.3}, "shifts": {"decoder.0.mlp": shift._asdict()}}
    found = nv.Sensitivity.from_json(old)
    assert found.levels == (0.3,) and found.at(0.3) == {Site("decoder", 0, "mlp"): shift}


@pytest.mark.parametrize(
    "damage", [None, {"version": 2}, {"protocol": {}, "curves": {"decoder.0.mlp": [[1, 2]]}}, {"curves": []}]
)
def test_other_content_is_refused(damage: Any) -> None:
    with pytest.raises(PlanError, match="no saved loss curves"):
        nv.Sensitivity.from_json(damage)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_rates_are_refused(rate: float, tiny_lm: LM, tmp_path: Path) -> None:
    scores = nv.score(tiny_lm, None, criterion="random")
    with pytest.raises(PlanError, match="between 0 and 1"):
        nv.sensitivity(tiny_lm, scores, probe_of(tiny_lm, tmp_path), levels=(0.5, rate))


def test_scores_of_another_model_are_refused(tiny_lm: LM, t5: LM, tmp_path: Path) -> None:
    scores = nv.score(t5, None, criterion="random")
    with pytest.raises(PlanError, match="another shape"):
        nv.sensitivity(tiny_lm, scores, probe_of(tiny_lm, tmp_path))
