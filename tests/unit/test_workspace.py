"""Workspaces of recipes and runs: equal results, what variants share, what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.sets import CalibrationSelection
from nirvana.errors import CorpusError, ModelError, RunError
from nirvana.runs import compensation, planning
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import Store
from nirvana.runs.workspace import Workspace
from tests.conftest import english, write_tiny_model
from tests.counting import count_calls


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    text = tmp_path / "calibration.txt"
    text.write_text("\n\n".join(english(60)), encoding="utf-8")
    return (
        Recipe()
        .change("model", name=str(write_tiny_model(tmp_path / "model")), device="cpu")
        .change("calibration", corpus=str(text), candidates=2, samples=4, length=32)
        .change("calibration", probe_samples=6, probe_length=16)
        .change("allocation", sparsity=0.3, multiple_of=4)
        .change("prune", compensation="least_squares", samples=8, length=48)
    )


@pytest.fixture
def run(recipe: Recipe) -> Run:
    run = Store().create(recipe)
    compute_steps(run, until="prune")
    return run


def test_a_bare_recipe_gives_what_its_run_gives(run: Run, recipe: Recipe) -> None:
    bare, kept = Workspace(recipe), Workspace.of(run)
    chosen = bare.calibration()
    assert isinstance(chosen, CalibrationSelection) and bare.calibration_set().hash == kept.calibration_set().hash
    assert bare.probe().hash == bare.draw_probe().hash == kept.probe().hash == chosen.probe.hash
    assert bare.saliency().hash == kept.saliency().hash
    assert bare.plan().to_json() == kept.plan().to_json()
    assert bare.pruned().hash == kept.pruned().hash
    assert {step: origin["cached"] for step, origin in bare.origins.items()} == {
        "calibration": True, "saliency": True, "statistics": True,
    }  # fmt: skip
    assert list(kept.subjects()) == ["dense", "pruned"] and kept.subjects()["dense"] is kept.lm


def test_a_plan_and_a_model_may_be_given(run: Run, recipe: Recipe) -> None:
    plan = run.plan()
    assert plan is not None
    lm = ModelCache().dense(recipe.model)
    given = Workspace(recipe.change("model", name="/no/such/folder"), lm=lm, plan=plan)
    assert given.lm is lm and given.plan() is plan
    assert given.pruned().hash == Workspace.of(run).pruned().hash


def test_variants_share_models_scores_statistics_and_references(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(
        monkeypatch,
        {
            planning: ("sample_calibration", "score", "dense_reference"),
            compensation: ("through_cache", "collect_statistics"),
        },
    )
    first = Workspace(recipe.change("calibration", candidates=1))
    sparsities = []
    for sparsity in (0.2, 0.3, 0.4):
        variant = first.variant(first.recipe.change("allocation", sparsity=sparsity))
        assert variant.lm is first.lm
        sparsities.append(variant.plan().sparsity)
        assert variant.pruned().is_pruned
        assert variant.reference().probe_hash == first.draw_probe().hash
    assert len(set(sparsities)) == 3
    assert calls == Counter(sample_calibration=1, score=1, dense_reference=1, through_cache=1, collect_statistics=1)


def test_cleared_results_are_computed_again(recipe: Recipe) -> None:
    found = Workspace(recipe.change("calibration", candidates=1))
    before, lm = found.saliency(), found.lm
    found.clear()
    assert lm.model is None and found.models.resident() == []
    assert found.saliency() is not before and found.saliency().hash == before.hash
    assert found.pruned().is_pruned


def test_texts_are_opened_once_and_mixtures_take_the_open_ones(recipe: Recipe, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(english(40, seed=1)), encoding="utf-8")
    given = Corpus.from_documents(english(40, seed=2), name="given", kind="file")
    found = Workspace(recipe, corpora={"given": given})
    assert found.corpus("given") is given
    mixed = found.corpus(f"given + {other}")
    assert mixed.parts[0] is given and mixed.parts[1].name == "other.txt"
    assert found.corpus(f"given + {other}") is mixed
    with pytest.raises(CorpusError):
        found.corpus("no such text")


def test_the_text_of_the_set_that_kl_chose_is_found(recipe: Recipe, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(english(40, seed=1)), encoding="utf-8")
    found = Workspace(recipe.change("calibration", alternatives=(str(other),), mixtures=True))
    assert found.calibration_text().hash == found.calibration_set().source_hash


def test_a_model_whose_files_changed_is_refused(run: Run, recipe: Recipe) -> None:
    found = Workspace.of(run)
    assert found.lm.hash
    write_tiny_model(Path(recipe.model.name), seed=9)
    for method in (found.pruned, found.draw_probe, found.subjects):
        with pytest.raises(RunError, match="files have changed") as caught:
            method()
        assert caught.value.hint
    assert Workspace(recipe).saliency().hash != found.saliency().hash, "a bare recipe takes the model as it is"


def test_results_that_are_missing_or_damaged_are_refused(run: Run, recipe: Recipe) -> None:
    with pytest.raises(RunError, match="model result of this run is missing"):
        Workspace.of(Store().create(recipe))
    for file in run.folder.glob("plan-*"):
        file.write_bytes(b"{}")
    with pytest.raises(RunError, match="allocation result of this run is missing or damaged") as caught:
        Workspace.of(run).pruned()
    assert "Run it again" in caught.value.hint
    compute_steps(run, until="prune")
    assert Workspace.of(run).pruned().is_pruned


def test_a_model_of_another_compensation_is_refused(run: Run, recipe: Recipe) -> None:
    summary = run.pruned()
    assert summary is not None
    run.put("prune", replace(summary, compensation={}))
    with pytest.raises(RunError, match="compensated in another way"):
        Workspace.of(run).pruned()


def test_a_model_that_does_not_exist_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ModelError):
        _ = Workspace(recipe.change("model", name="/no/such/folder")).lm
