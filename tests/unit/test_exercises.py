"""Exercises and the stops of the tour, on the example run and on made-up plans."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from nirvana.allocation.allocate import allocate
from nirvana.dashboard.guide import GUIDES
from nirvana.plan import PruningPlan
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import EXAMPLE, Store
from nirvana.teaching.exercises import NUMBERS, PLANS
from nirvana.teaching.tour import STOPS

CHECKS = {each.name: each.check for each in PLANS}


@pytest.fixture
def example(own_home: object) -> Run:
    return Store().open(EXAMPLE)


@pytest.fixture
def plan(example: Run) -> Callable[..., PruningPlan]:
    scores = example.saliency()
    assert scores is not None

    def make(**choices: Any) -> PruningPlan:
        return allocate(scores, **choices)

    return make


def test_numbers_are_those_of_the_run(example: Run) -> None:
    truths = {each.name: each.truth(example) for each in NUMBERS}
    card, report = example.model(), example.report()
    assert card is not None and report is not None
    assert truths["groups"] == card.geometry["layers"] * card.geometry["kv_heads"] == 90
    pruned, dense = (report.find("perplexity", subject) for subject in ("pruned", "dense"))
    assert pruned is not None and dense is not None and truths["cost"] == pruned.value / dense.value
    small = example.pruned()
    assert small is not None
    assert truths["share"] == pytest.approx(100 - 100 * small.parameters["pruned"] / small.parameters["dense"])


def test_a_number_is_right_within_its_tolerance(example: Run) -> None:
    for exercise in NUMBERS:
        truth = exercise.truth(example)
        assert truth is not None
        for factor, right in ((1.0, True), (1 + 2 * exercise.tolerance + 0.02, False), (0.9, False)):
            answer = exercise.check(example, factor * truth)
            assert answer is not None and answer.right == right, exercise.name
            assert right == (exercise.hint not in answer.words)


def test_without_results_there_is_no_answer(own_home: object) -> None:
    run = Store().create(Recipe())
    assert all(exercise.check(run, 1.0) is None for exercise in NUMBERS)
    assert [stop.page for stop in STOPS if stop.look(run) is not None] == ["experiments"]


def test_attention_is_spared_by_a_large_finite_gamma(plan: Callable[..., PruningPlan]) -> None:
    check = CHECKS["spare"]
    assert "30 %" in check(plan(sparsity=0.3, gamma=50.0)).words
    lost = check(plan(sparsity=0.2, gamma=4.0))
    assert not lost.right and "attention loses 5.6%" in lost.words
    assert not check(plan(sparsity=0.2, gamma=math.inf)).right
    assert check(plan(sparsity=0.2, gamma=50.0)).right


def test_the_first_layer_is_protected(plan: Callable[..., PruningPlan]) -> None:
    check = CHECKS["protect"]
    assert not check(plan(sparsity=0.3, gamma=4.0)).right
    assert not check(plan(sparsity=0.2, gamma=4.0, protected=(0,))).right
    assert not check(plan(sparsity=0.3, gamma=4.0, protected=(1,))).right
    assert check(plan(sparsity=0.3, gamma=4.0, protected=(0, 5))).right


def test_widths_are_equal(plan: Callable[..., PruningPlan]) -> None:
    check = CHECKS["equal"]
    uneven = check(plan(sparsity=0.3, gamma=4.0))
    assert not uneven.right and "MLPs keep from" in uneven.words
    assert check(plan(sparsity=0.3, gamma=4.0, uniform=True)).right


def test_the_tour_visits_pages_that_exist_with_numbers_of_the_run(example: Run) -> None:
    assert 8 <= len(STOPS) <= 10 and {stop.page for stop in STOPS} <= set(GUIDES)
    for stop in STOPS:
        found = stop.look(example)
        assert found and any(map(str.isdigit, found)), stop.page
    report, plan = example.report(), example.plan()
    assert report is not None and plan is not None
    recovered = report.find("perplexity", "recovered")
    assert recovered is not None
    looks = {stop.page: str(stop.look(example)) for stop in STOPS}
    assert f"{recovered.value:.4g}" in looks["home"]
    assert f"{plan.rate('KV group'):.1%}" in looks["allocation"] and f"{plan.rate('neuron'):.1%}" in looks["allocation"]
