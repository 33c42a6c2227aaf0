"""Several rounds in a recipe: the plan is that of `prune_iteratively`, cached, and limits are checked first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nirvana as nv
from nirvana import iterative
from nirvana.errors import NirvanaError
from nirvana.reporting.code import python_code
from nirvana.runs.describe import setting
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.runs.workspace import Workspace
from tests.commands import refused
from tests.counting import count_calls
from tests.unit.test_allocation import model, scores


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    chosen = small_recipe.change("allocation", rounds=2, method="measured", sparsity=0.4)
    return chosen.change("saliency", criterion="second-order")


def test_a_run_in_rounds_scores_again_and_is_cached(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = count_calls(monkeypatch, {iterative: ["score"]})
    run = Store(tmp_path).create(recipe)
    compute_steps(run, until="prune")
    plan = run.plan()
    assert plan is not None and scored["score"] == 1, "the first round has the scores of the run"
    assert "Units were scored in 2 rounds." in plan.notes and plan.requested == 0.4
    workspace = Workspace(recipe)
    lm, calibration = workspace.lm, workspace.calibration_set()
    how: dict[str, Any] = {"method": "measured", "sensitivity": workspace.loss_curves(), "multiple_of": 4}
    windows = nv.sample_calibration(lm, workspace.calibration_text(), samples=96, length=256, seed=1)
    by_hand = nv.prune_iteratively(
        lm,
        calibration,
        sparsity=0.4,
        steps=2,
        criterion="second-order",
        compensation="least_squares",
        windows=windows,
        **how,
    )
    assert all(np.array_equal(plan[site], by_hand.plan[site]) for site in by_hand.plan)
    before = scored["score"]
    again = Store(tmp_path).create(recipe.change("evaluation", max_tokens=512))
    compute_steps(again, until="allocation")
    assert scored["score"] == before and again.plan() is not None


def test_rounds_in_words_and_as_code(recipe: Recipe) -> None:
    assert "2 rounds" in setting(recipe)
    script = python_code(recipe, "prune")
    compile(script, "script", "exec")
    assert "plan = nv.prune_iteratively(" in script and "sensitivity=curves" in script and ").plan" in script


@pytest.mark.parametrize(
    ("values", "message"),
    [({"widths": ("decoder.0.mlp=8",)}, "belong to one round"), ({"normalisation": 0.5}, "do not normalise")],
)
def test_rounds_exclude_what_belongs_to_one(
    values: dict[str, Any], message: str, small_recipe: Recipe, tmp_path: Path
) -> None:
    run = Store(tmp_path).create(small_recipe.change("allocation", rounds=2, **values))
    with pytest.raises(NirvanaError, match=message):
        compute_steps(run, until="prune")


def test_allocating_from_a_file_of_scores_has_one_round(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "saliency.npz"
    file.write_bytes(scores(model()).to_bytes())
    assert "rounds need the model" in refused(capsys, "allocate", "--saliency", str(file), "--rounds", "2")
