"""The calibration set whose pruning changes the model least wins, and the record says why."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nirvana import selection
from nirvana.allocation.allocate import allocate
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.calibration.sampling import sample_calibration, sample_probe
from nirvana.calibration.sets import CalibrationSelection
from nirvana.errors import Cancelled, CorpusError, PlanError, SaliencyError
from nirvana.evaluation import divergence as divergence_module
from nirvana.evaluation.divergence import divergence
from nirvana.progress import Progress
from nirvana.saliency.score import score
from nirvana.selection import select_calibration
from nirvana.surgery import prune

if TYPE_CHECKING:
    from nirvana.models.lm import LM

SIZES: dict[str, Any] = {"samples": 4, "length": 24}


@pytest.fixture(scope="module")
def chosen(tiny_lm: LM, sample_text: Path) -> CalibrationSelection:
    corpus = load_corpus(sample_text)
    probe = sample_probe(tiny_lm, corpus, samples=12, length=16)
    return select_calibration(tiny_lm, corpus, candidates=3, sparsity=0.3, gamma=2.0, seed=5, probe=probe, **SIZES)


def test_each_candidate_is_what_the_steps_give(chosen: CalibrationSelection, tiny_lm: LM, sample_text: Path) -> None:
    corpus = load_corpus(sample_text)
    assert [candidate.calibration.seed for candidate in chosen.candidates] == [5, 6, 7]
    for candidate in chosen.candidates:
        seed = candidate.calibration.seed or 0
        assert candidate.calibration.hash == sample_calibration(tiny_lm, corpus, seed=seed, **SIZES).hash
        saliency = score(tiny_lm, candidate.calibration)
        assert candidate.saliency is not None and candidate.saliency.hash == saliency.hash
        plan = allocate(saliency, sparsity=0.3, gamma=2.0)
        assert candidate.sparsity == plan.sparsity
        expected = divergence(tiny_lm, prune(tiny_lm, plan), chosen.probe)
        np.testing.assert_allclose(candidate.divergence.per_token, expected.per_token, atol=1e-6)


def test_the_lowest_divergence_wins(chosen: CalibrationSelection) -> None:
    means = [candidate.divergence.mean for candidate in chosen.candidates]
    assert len(set(means)) == 3
    assert chosen.winner == int(np.argmin(means)) == chosen.ranking[0]
    assert chosen.hash == chosen.candidates[chosen.winner].calibration.hash
    mean, error = chosen.margin(chosen.ranking[-1])
    assert mean == pytest.approx(max(means) - min(means)) and error > 0
    assert (chosen.criterion, chosen.sparsity, chosen.gamma) == ("nirvana", 0.3, 2.0)


def test_the_record_travels_without_the_scores(chosen: CalibrationSelection) -> None:
    again = CalibrationSelection.from_bytes(chosen.to_bytes())
    assert again.winner == chosen.winner and again.hash == chosen.hash and again.probe.hash == chosen.probe.hash
    assert again.candidates[0].saliency is None
    np.testing.assert_array_equal(again.candidates[1].divergence.per_token, chosen.candidates[1].divergence.per_token)


def test_probes_are_from_other_text_than_every_candidate(tiny_lm: LM) -> None:
    text = [" ".join(f"{word:04d}" for word in range(start, start + 700)) for start in range(0, 9_800, 700)]
    result = select_calibration(tiny_lm, text, candidates=2, criterion="magnitude", **SIZES)
    assert result.probe.tokens.shape == (16, 512)
    probed = {word for window in result.probe.texts for word in window.split() if len(word) == 4}
    for candidate in result.candidates:
        words = {word for window in candidate.calibration.texts for word in window.split() if len(word) == 4}
        assert words and not words & probed


def test_equal_candidates_leave_the_first(tiny_lm: LM, sample_text: Path) -> None:
    corpus = load_corpus(sample_text)
    probe = sample_probe(tiny_lm, corpus, samples=4, length=16)
    result = select_calibration(tiny_lm, corpus, candidates=3, criterion="magnitude", probe=probe, **SIZES)
    assert result.winner == 0 and result.ranking == [0, 1, 2]


def test_the_dense_model_runs_once(tiny_lm: LM, sample_text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, calls = load_corpus(sample_text), []
    original = divergence_module.dense_reference

    def counted(*arguments: Any, **options: Any) -> object:
        calls.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(selection, "dense_reference", counted)
    probe = sample_probe(tiny_lm, corpus, samples=4, length=16)
    select_calibration(tiny_lm, corpus, candidates=3, criterion="magnitude", probe=probe, **SIZES)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"candidates": 0}, CorpusError, "cannot be compared"),
        ({"sparsity": 0.0}, PlanError, "parsity"),
        ({"sparsity": math.nan}, PlanError, "parsity"),
        ({"gamma": -1.0}, PlanError, "gamma"),
        ({"gamma": math.nan}, PlanError, "gamma"),
        ({"multiple_of": 0}, PlanError, "multiple"),
        ({"criterion": "guess"}, SaliencyError, "nirvana"),
        ({"samples": 0}, CorpusError, "cannot be drawn"),
        ({"seed": -2}, CorpusError, "negative"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_runs(
    tiny_lm: LM,
    sample_text: Path,
    values: dict[str, float],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "dense_reference", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(error, match=message):
        select_calibration(tiny_lm, load_corpus(sample_text), **{"candidates": 2, **SIZES, **values})


def test_a_split_alone_leaves_nothing_to_probe(tiny_lm: LM, sample_text: Path) -> None:
    with pytest.raises(CorpusError, match="whole corpus"):
        select_calibration(tiny_lm, load_corpus(sample_text).split("calibration"))


def test_one_bar_goes_over_all_candidates_and_may_cancel(tiny_lm: LM, sample_text: Path) -> None:
    corpus = load_corpus(sample_text)
    probe = sample_probe(tiny_lm, corpus, samples=4, length=16)
    seen: list[Progress] = []
    select_calibration(tiny_lm, corpus, candidates=2, probe=probe, progress=seen.append, **SIZES)
    fractions = [report.fraction for report in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert any(report.stage.startswith("Candidate 2 of 2") for report in seen)

    def stop(report: Progress) -> None:
        if report.stage.startswith("Candidate 2"):
            raise Cancelled

    with pytest.raises(Cancelled):
        select_calibration(tiny_lm, corpus, candidates=2, probe=probe, progress=stop, **SIZES)
