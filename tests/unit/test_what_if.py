"""Measured plans: the task, what the run keeps, the command, and the words about them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import nirvana as nv
from nirvana import cli
from nirvana.errors import PlanError, RunError
from nirvana.evaluation.plan_trials import PlanTrial, PlanTrials
from nirvana.jobs.execute import check_task, execute
from nirvana.reporting.plan_trials import compared
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import Store
from tests.reporter import Reporter

EDITS = ("keep decoder.0", "remove decoder.1.mlp.3,5")


@pytest.fixture
def run(small_recipe: Recipe) -> Run:
    made = Store().create(small_recipe.change("calibration", probe_samples=3, probe_length=16))
    compute_steps(made, until="saliency")
    return made


def test_a_plan_is_measured_with_and_without_its_edits(run: Run) -> None:
    choice, models = run.recipe.allocation.with_values(edits=EDITS), ModelCache()
    found = PlanTrials.from_json(execute(run, "what-if", choice.to_json(), Reporter(), models))
    lm, scores, x = models.dense(run.recipe.model), run.saliency(), None
    assert scores is not None and len(found.items) == 2
    x = nv.sample_probe(lm, nv.load_corpus(run.recipe.calibration.corpus), samples=3, length=16, seed=42)
    for item, edits in zip(found.items, ((), EDITS), strict=True):
        plan = nv.allocate(scores, **choice.with_values(edits=edits).one_round)
        small = nv.prune(lm, plan)
        assert item.kl == pytest.approx(nv.divergence(lm, small, x).per_sample, rel=1e-5)
        assert item.edits == edits and item.plan == plan.hash
        assert item.parameters == small.layout.parameters and item.sparsity == plan.sparsity
    kept = Store().open(run.id).plan_trials()
    assert kept is not None and kept.to_json() == found.to_json()
    again = PlanTrials.from_json(execute(run, "what-if", choice.to_json(), Reporter(), models))
    assert again.to_json() == found.to_json()
    execute(run, "what-if", choice.with_values(sparsity=0.4, edits=()).to_json(), Reporter(), models)
    kept = Store().open(run.id).plan_trials()
    assert kept is not None and [item.edits for item in kept.items] == [(), EDITS, ()]


def test_the_compensation_is_the_runs(run: Run) -> None:
    recipe = run.recipe.change("prune", compensation="bias", samples=4, length=16)
    other = Store().create(recipe, parent=run)
    models = ModelCache()
    (item,) = PlanTrials.from_json(execute(other, "what-if", recipe.allocation.to_json(), Reporter(), models)).items
    assert item.compensation == "bias, 4 x 16 tokens, seed 1"
    (plain,) = PlanTrials.from_json(execute(run, "what-if", recipe.allocation.to_json(), Reporter(), models)).items
    assert plain.compensation == "none" and plain.plan == item.plan and plain.kl != item.kl


def test_what_cannot_be_measured_is_refused(run: Run, small_recipe: Recipe) -> None:
    choice = run.recipe.allocation
    for values, match in (
        ({"edits": ("remove decoder.9",)}, "no layer"),
        ({"sparsity": 0.99}, "out of reach"),
        ({"rounds": 2, "edits": EDITS}, "one round"),
        ({"uniform": True, "edits": EDITS}, "equal widths"),
        ({"method": "measured"}, "needs loss curves"),
    ):
        with pytest.raises(PlanError, match=match):
            check_task(run, "what-if", choice.with_values(**values).to_json())
    with pytest.raises(RunError, match="no scores"):
        check_task(Store().create(small_recipe), "what-if", choice.to_json())


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["what-if", run.id, "--edit", EDITS[0], "--edit", EDITS[1]])
    shown = capsys.readouterr().out
    assert "Edit: remove decoder.1.mlp.3,5" in shown and "The edits change KL by" in shown and "3 x 16 tokens" in shown
    cli.main(["what-if", run.id, "--json"])
    assert len(json.loads(capsys.readouterr().out)["items"]) == 1


def trial(kl: tuple[float, ...], edits: tuple[str, ...] = ()) -> PlanTrial:
    return PlanTrial(f"plan {edits}", "20 %, gamma 3.36", edits, "none", 0.2, 100, 0.1, None, kl)


def test_edits_are_compared_sample_by_sample() -> None:
    before, edited = trial((1.0, 2.0, 3.0, 4.0)), trial((1.1, 2.1, 3.1, 4.1), ("remove decoder.1",))
    gap, error = edited.less(before)
    assert gap == pytest.approx(0.1) and error == pytest.approx(0.0, abs=1e-12)
    assert compared(edited, before).startswith("The edits change KL by +0.1 nats") and "they lose" in compared(
        edited, before
    )
    assert "they gain" in compared(before, edited)
    noisy = trial((1.5, 1.0, 4.5, 3.5), ("remove decoder.1",))
    assert "not significant" in compared(noisy, before)
    one = trial((1.0,)), trial((2.0,))
    assert "not known" in compared(*one) and math.isnan(one[0].standard_error)
    assert before.standard_error == pytest.approx(np.std(before.kl, ddof=1) / 2)


def test_measured_plans_are_read_as_written_and_replaced() -> None:
    first = PlanTrials((trial((1.0, 2.0)), trial((2.0, 3.0), ("remove decoder.1",))), {"probe": "ab"})
    assert PlanTrials.from_json(json.loads(json.dumps(first.to_json()))).to_json() == first.to_json()
    newer = PlanTrials((trial((5.0, 6.0)),), {"probe": "ab"})
    assert [item.kl for item in first.adding(newer).items] == [(2.0, 3.0), (5.0, 6.0)]
    assert first.adding(PlanTrials(newer.items, {"probe": "cd"})).items == newer.items
    damaged: tuple[dict[str, Any], ...] = (
        {"items": [{}]},
        {},
        first.to_json() | {"items": [first.items[0].to_json() | {"kl": []}]},
    )
    for damage in damaged:
        with pytest.raises(PlanError):
            PlanTrials.from_json(damage)
    with pytest.raises(PlanError, match="one probe"):
        PlanTrials((trial((1.0,)), trial((1.0, 2.0))))
