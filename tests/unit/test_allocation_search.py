"""Allocation search: what it measures in place is the sliced model's KL, its budget is exact, and it resumes."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nirvana as nv
from nirvana.compensation import Compensation
from nirvana.errors import Cancelled, PlanError, RunError
from nirvana.evaluation.divergence import divergence
from nirvana.jobs.execute import execute
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import Progress
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.studies.allocation_search import SEED_OF_PROBES
from nirvana.studies.allocation_steps import FILE, SearchStep, accepted, changed_widths, read_steps, start_widths
from tests.conftest import english
from tests.reporter import Reporter
from tests.unit.test_sensitivity import t5  # noqa: F401  a fixture

TEXT = "\n\n".join(english(40, seed=4))
PROBES: dict[str, Any] = {"samples": 4, "length": 16}


def plan_of(lm: LM, **more: Any) -> tuple[nv.Saliency, PruningPlan]:
    scores = nv.score(lm, None, criterion="random")
    return scores, nv.allocate(scores, **{"sparsity": 0.3, "multiple_of": 4, "gamma": 1.0, **more})


@pytest.mark.parametrize("compensation", ["none", "least_squares"])
@pytest.mark.parametrize("model", ["tiny_lm", "t5"])
def test_the_best_plan_has_the_kl_that_was_measured(
    compensation: Compensation, model: str, request: pytest.FixtureRequest
) -> None:
    lm: LM = request.getfixturevalue(model)
    scores, plan = plan_of(lm)
    before = {name: value.clone() for name, value in lm.weights().state_dict().items()}
    statistics = nv.collect_statistics(lm, nv.sample_calibration(lm, TEXT, samples=8, length=16))
    how: dict[str, Any] = {"compensation": compensation}
    how |= {"statistics": statistics} if compensation != "none" else {}
    found = nv.search_allocation(lm, scores, plan, TEXT, steps=40, **PROBES, **how)
    probe = nv.sample_probe(lm, TEXT, samples=8, length=16, seed=SEED_OF_PROBES)
    choosing, held_out = probe.part(slice(0, None, 2)), probe.part(slice(1, None, 2))
    kept = accepted(found.steps)
    assert len(found.steps) == 41 and 1 < len(kept) < 41
    for each, step in ((plan, kept[0]), (found.plan, found.best)):
        small = nv.prune(lm, each, **how)
        assert divergence(lm, small, choosing).mean == pytest.approx(step.kl, rel=1e-4)
        assert step.held_out == pytest.approx(list(divergence(lm, small, held_out).per_sample), rel=1e-4)
    assert all(later.kl < earlier.kl for earlier, later in itertools.pairwise(kept))
    assert all(step.kl >= found.best.kl for step in found.steps)
    assert found.plan.sparsity == plan.sparsity and found.widths
    again = nv.allocate(scores, sparsity=0.3, multiple_of=4, gamma=1.0, widths=found.widths)
    assert all(np.array_equal(again[site], found.plan[site]) for site in plan)
    assert all(torch.equal(value, before[name]) for name, value in lm.weights().state_dict().items())


def test_a_stopped_search_continues_as_if_it_had_not(tiny_lm: LM, tmp_path: Path) -> None:
    scores, plan = plan_of(tiny_lm)
    whole = nv.search_allocation(tiny_lm, scores, plan, TEXT, steps=20, **PROBES)
    seen: list[SearchStep] = []

    def stop(progress: Progress) -> None:
        if len(seen) == 7:
            raise Cancelled

    with pytest.raises(Cancelled):
        nv.search_allocation(
            tiny_lm, scores, plan, TEXT, steps=20, **PROBES, folder=tmp_path, progress=stop, on_step=seen.append
        )
    assert len(read_steps(tmp_path)[1]) == 7
    rest: list[SearchStep] = []
    found = nv.search_allocation(tiny_lm, scores, plan, TEXT, steps=20, **PROBES, folder=tmp_path, on_step=rest.append)
    assert len(rest) == 14
    assert [_result(step) for step in found.steps] == [_result(step) for step in whole.steps]
    settings, stored = read_steps(tmp_path)
    assert settings is not None and [_result(step) for step in stored] == [_result(step) for step in whole.steps]
    assert changed_widths(start_widths(settings), stored) == whole.widths
    longer = nv.search_allocation(tiny_lm, scores, plan, TEXT, steps=22, **PROBES, folder=tmp_path)
    assert longer.steps[:21] == found.steps and len(longer.steps) == 23


def _result(step: SearchStep) -> dict[str, Any]:
    return {name: value for name, value in step.to_json().items() if name != "seconds"}


def test_another_seed_or_plan_is_another_search(tiny_lm: LM, tmp_path: Path) -> None:
    scores, plan = plan_of(tiny_lm)
    first = nv.search_allocation(tiny_lm, scores, plan, TEXT, steps=5, **PROBES, folder=tmp_path)
    other = nv.search_allocation(tiny_lm, scores, plan, TEXT, steps=5, seed=1, **PROBES, folder=tmp_path)
    assert first.steps[0].kl == other.steps[0].kl
    assert [step.exchanges for step in first.steps] != [step.exchanges for step in other.steps]
    _, more = plan_of(tiny_lm, sparsity=0.4)
    assert nv.search_allocation(tiny_lm, scores, more, TEXT, steps=1, **PROBES, folder=tmp_path).start is more
    assert len(read_steps(tmp_path)[1]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uniform": True}, "equal widths"),
        ({"protected": [0, 1], "sparsity": 0.1, "gamma": math.inf}, "can exchange units"),
    ],
)
def test_plans_without_exchanges_are_refused(options: dict[str, Any], message: str, tiny_lm: LM) -> None:
    scores, plan = plan_of(tiny_lm, **options)
    with pytest.raises(PlanError, match=message):
        nv.search_allocation(tiny_lm, scores, plan, TEXT, steps=2, **PROBES)


def test_scores_must_be_those_of_the_plan(tiny_lm: LM) -> None:
    _, plan = plan_of(tiny_lm)
    other = nv.score(tiny_lm, None, criterion="magnitude")
    with pytest.raises(PlanError, match="best-scored"):
        nv.search_allocation(tiny_lm, other, plan, TEXT, steps=2, **PROBES)


def test_a_search_needs_a_limit(tiny_lm: LM) -> None:
    scores, plan = plan_of(tiny_lm)
    with pytest.raises(RunError, match="needs a limit"):
        nv.search_allocation(tiny_lm, scores, plan, TEXT, minutes=0, **PROBES)


def test_as_a_job_it_searches_from_the_plan_of_the_recipe(small_recipe: Recipe, tmp_path: Path) -> None:
    recipe = small_recipe.change("saliency", criterion="magnitude").change("prune", compensation="bias")
    store, reporter = Store(tmp_path), Reporter()
    run = store.create(recipe)
    request = {"minutes": 0.0, "steps": 12, **PROBES}
    found = execute(run, "search-allocation", request, reporter, ModelCache())
    assert found == {"points": 13, "failed": 0}
    settings, steps = read_steps(run.folder)
    assert settings is not None and settings["compensation"]["method"] == "bias"
    widths = changed_widths(start_widths(settings), steps)
    words = tuple(f"{site.key}={width}" for site, width in widths.items())
    lm = nv.load_model(recipe.model.name, device="cpu")
    scores = nv.score(lm, None, criterion="magnitude")
    usual = nv.allocate(scores, **{name: getattr(recipe.allocation, name) for name in ("sparsity", "multiple_of")})
    edited = nv.allocate(scores, sparsity=0.3, multiple_of=4, widths=words)
    assert start_widths(settings) == {site: len(kept) for site, kept in usual.items()}
    assert edited.removed == usual.removed
    with pytest.raises(PlanError, match="equal widths"):
        execute(
            store.create(recipe.change("allocation", uniform=True)),
            "search-allocation",
            request,
            reporter,
            ModelCache(),
        )


def test_a_step_survives_json() -> None:
    step = SearchStep(3, failure="broken")
    data = json.loads(json.dumps(step.to_json()))
    assert SearchStep.from_json(data).to_json() == step.to_json()
    assert FILE.endswith(".jsonl")
