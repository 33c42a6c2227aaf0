"""KL chooses among several corpora and their mixtures, on a probe that is fair to all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import nirvana as nv
from nirvana import selection
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.mixture import all_of, with_mixtures
from nirvana.calibration.kl import Divergence
from nirvana.calibration.sets import CalibrationSelection
from nirvana.errors import CorpusError, PlanError, RunError
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import CalibrationChoice, Recipe
from nirvana.runs.store import Store
from nirvana.runs.validation import check_recipe
from nirvana.runs.workspace import Workspace
from nirvana.selection import select_calibration
from tests.conftest import english

if TYPE_CHECKING:
    from nirvana.models.lm import LM

SIZES: dict[str, Any] = {"samples": 4, "length": 24}


def corpus(name: str, seed: int) -> Corpus:
    return Corpus.from_documents(english(30, seed=seed), name=name, kind="file")


@pytest.fixture(scope="module")
def three() -> list[Corpus]:
    return [corpus("one", 1), corpus("two", 2), corpus("three", 3)]


def names(corpora: list[Corpus]) -> list[str]:
    return [each.name for each in corpora]


def sources(found: CalibrationSelection) -> list[str]:
    return [candidate.calibration.source for candidate in found.candidates]


def test_which_mixtures_are_worth_a_try(three: list[Corpus]) -> None:
    four = [*three, corpus("four", 4)]
    assert names(with_mixtures(three[:2])) == ["one", "two", "one + two"]
    assert names(with_mixtures(three))[3:] == ["one + two", "one + three", "two + three", "one + two + three"]
    assert names(with_mixtures(four)) == [*names(four), "one + two + three + four"]
    assert names(with_mixtures(three, mixtures=False)) == names(three)
    overlapping = [nv.mix(three[:2]), three[0]]
    assert names(with_mixtures(overlapping)) == ["one + two", "one"]  # together they are the first again
    assert all_of(overlapping).name == "one + two" and all_of([three[0]]) is three[0]
    with pytest.raises(CorpusError, match="two is given twice"):
        with_mixtures([three[1], three[0], three[1]])


@pytest.mark.parametrize("best", range(6))
def test_the_text_and_seed_with_the_lowest_divergence_win(
    tiny_lm: LM, three: list[Corpus], monkeypatch: pytest.MonkeyPatch, best: int
) -> None:
    calls = iter(range(6))

    def known(*_: object, **__: object) -> Divergence:
        return Divergence(np.full((8, 3), 0.1 if next(calls) == best else 0.5, np.float32))

    monkeypatch.setattr(selection, "divergence", known)
    found = select_calibration(
        tiny_lm, three[:2], candidates=2, mixtures=True, seed=3, criterion="magnitude", sparsity=0.3, **SIZES
    )
    assert found.winner == best
    assert found.calibration.source == ["one", "two", "one + two"][best // 2]
    assert found.calibration.seed == 3 + best % 2
    assert sources(found) == ["one", "one", "two", "two", "one + two", "one + two"]


def test_the_probe_has_equal_shares_of_all_texts_and_none_of_the_calibration(tiny_lm: LM, three: list[Corpus]) -> None:
    found = select_calibration(tiny_lm, three, candidates=1, criterion="magnitude", **SIZES)
    assert found.probe.hash == nv.sample_probe(tiny_lm, nv.mix(three)).hash
    assert found.probe.source == "one + two + three" and found.probe.samples == 16
    drawn = nv.sample_calibration(tiny_lm, three[1], seed=0, **SIZES)
    assert found.candidates[1].calibration.hash == drawn.hash


def test_documents_stay_one_text(tiny_lm: LM) -> None:
    found = select_calibration(tiny_lm, english(40), candidates=2, criterion="magnitude", **SIZES)
    assert sources(found) == ["text", "text"]


def test_some_corpora_among_other_things_are_refused(tiny_lm: LM, three: list[Corpus]) -> None:
    with pytest.raises(CorpusError, match="Some of the texts"):
        select_calibration(tiny_lm, [three[0], "a string"], **SIZES)  # type: ignore[arg-type]
    little = Corpus.from_documents(["a", "b", "c"], name="little", kind="file")
    with pytest.raises(CorpusError, match="little"):
        select_calibration(tiny_lm, [three[0], little], **SIZES)


def test_trials_use_the_allocation_that_is_asked_for(tiny_lm: LM, three: list[Corpus]) -> None:
    options: dict[str, Any] = {"candidates": 1, "sparsity": 0.3, "criterion": "wanda-sp", **SIZES}
    found = select_calibration(tiny_lm, three[:2], method="published", **options)
    first = found.candidates[0]
    plan = nv.allocate(nv.score(tiny_lm, first.calibration, criterion="wanda-sp"), sparsity=0.3, method="published")
    expected = nv.divergence(tiny_lm, nv.prune(tiny_lm, plan), found.probe)
    np.testing.assert_allclose(first.divergence.per_token, expected.per_token, atol=1e-6)
    kept = select_calibration(tiny_lm, three[:2], protected=(0,), normalisation=0.5, **options)
    assert first.divergence.mean != kept.candidates[0].divergence.mean
    again = CalibrationSelection.from_bytes(kept.to_bytes())
    assert (again.method, again.protected, again.normalisation, found.method) == ("shared", (0,), 0.5, "published")
    with pytest.raises(PlanError):
        select_calibration(tiny_lm, three[:2], protected=(9,), **options)


def test_a_recipe_says_what_to_choose_from() -> None:
    choice = CalibrationChoice(corpus="a", alternatives=("b", "c"), candidates=2)
    assert choice.texts == ("a", "b", "c") and choice.trials == 6
    assert CalibrationChoice(corpus="a", alternatives=("b", "c"), candidates=2, mixtures=True).trials == 14
    assert CalibrationChoice(candidates=1, mixtures=True).trials == 1
    recipe = Recipe(calibration=choice)
    assert Recipe.from_json(recipe.to_json()) == recipe
    hidden = recipe.change("calibration", corpus="~/a.txt", alternatives=("/secret/b.txt + python-docs", "c"))
    portable = hidden.portable().calibration
    assert portable.corpus == "a.txt" and portable.alternatives == ("b.txt + python-docs", "c")
    for change, error, words in (
        ({"alternatives": ("b", "a")}, CorpusError, "a is named twice"),
        ({"alternatives": (" ",)}, CorpusError, "has no name"),
        ({"candidates": 64, "alternatives": tuple("bcdef")}, RunError, "384 calibration sets"),
        ({"trial_method": "guess"}, PlanError, "guess"),
        ({"trial_protected": (-1,)}, PlanError, "0 or more"),
    ):
        with pytest.raises(error, match=words):
            check_recipe(recipe.change("calibration", **change), ("calibration",))


def test_a_run_scores_and_compensates_with_the_text_that_won(tiny_folder: Path, tmp_path: Path, own_home: Path) -> None:
    for name, seed in (("first", 1), ("second", 2)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(english(60, seed=seed)), encoding="utf-8")
    paths = [str(tmp_path / f"{name}.txt") for name in ("first", "second")]
    recipe = (
        Recipe()
        .change("model", name=str(tiny_folder), device="cpu")
        .change("calibration", corpus=paths[0], alternatives=(paths[1],), mixtures=True, candidates=1, **SIZES)
        .change("calibration", probe_samples=8, probe_length=16, trial_sparsity=0.3)
        .change("allocation", sparsity=0.3)
        .change("prune", compensation="least_squares", samples=8, length=24)
        .change("evaluation", corpora=(), window=32)
    )
    run = Store().create(recipe)
    compute_steps(run)
    chosen, summary = run.calibration(), run.pruned()
    assert isinstance(chosen, CalibrationSelection) and summary is not None
    assert list(dict.fromkeys(sources(chosen))) == ["first.txt", "second.txt", "first.txt + second.txt"]
    assert chosen.probe.source == "first.txt + second.txt"
    assert summary.compensation["sets"][0]["source"] == chosen.calibration.source
    report = run.report()
    assert report is not None and report.find("KL divergence", "pruned", corpus="first.txt + second.txt")


def test_a_choice_is_kept_by_its_texts(tiny_lm: LM, three: list[Corpus], own_home: Path) -> None:
    cached = []
    for pair in (three[:2], three[:2], three[1:]):
        first, second = names(pair)
        values = {"corpus": first, "alternatives": (second,), "candidates": 1, "probe_samples": 4, "probe_length": 16}
        recipe = Recipe().change("calibration", **values, **SIZES)
        workspace = Workspace(recipe, lm=tiny_lm, corpora={each.name: each for each in pair})
        assert isinstance(workspace.calibration(), CalibrationSelection)
        cached.append(workspace.origins["calibration"]["cached"])
    assert cached == [False, True, False]


def test_a_candidate_knows_its_text(tiny_lm: LM, three: list[Corpus]) -> None:
    found = select_calibration(tiny_lm, three[:2], candidates=2, mixtures=True, criterion="magnitude", **SIZES)
    assert [each.text.hash for each in found.candidates if isinstance(each.text, Corpus)] == [
        each.calibration.source_hash for each in found.candidates
    ]
