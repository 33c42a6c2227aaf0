"""Wording of recipes: one phrase a choice, the same in names, labels and protocols."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from nirvana.allocation.rules import METHODS as ALLOCATION_METHODS
from nirvana.compensation import METHODS
from nirvana.recovery.options import METHODS as RECOVERY_METHODS
from nirvana.reporting.comparison import headings
from nirvana.reporting.matrix import describe as describe_matrix
from nirvana.reporting.search import describe as describe_trial
from nirvana.runs.describe import ALLOCATIONS, COMPENSATIONS, RECOVERIES, default_name, setting
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.studies.search_space import Choices
from nirvana.studies.sweep_grid import Point

CHOSEN = {"gamma": 4.0, "normalisation": 0.5, "sparsity": 0.125}
PHRASES = ("taylor", "gamma 4", "normalisation 0.5", "least squares")


@pytest.fixture
def recipe() -> Recipe:
    chosen = Recipe().change("saliency", criterion="taylor").change("allocation", **CHOSEN)
    return chosen.change("prune", compensation="least_squares")


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"minutes": 20.0}, "20 min of distillation"),
        ({"minutes": 0.0, "tokens": 2_000}, "2,000 tokens of distillation"),
        ({"minutes": 0.0, "epochs": 1, "method": "lora"}, "1 epoch of adapters"),
    ],
    ids=str,
)
def test_a_recovery_is_named_by_its_budget_and_method(recipe: Recipe, budget: dict[str, Any], words: str) -> None:
    assert setting(recipe.change("recovery", **{"method": "distill", **budget}))[-1] == words
    assert words not in setting(recipe)


def test_every_method_has_a_name() -> None:
    assert set(RECOVERIES) == set(RECOVERY_METHODS)
    assert set(COMPENSATIONS) == set(METHODS)
    assert set(ALLOCATIONS) == set(ALLOCATION_METHODS)


def test_a_name_has_the_choices_that_are_not_the_usual() -> None:
    assert default_name(Recipe()) == "smollm2-135m, 20 %, gamma 3.36"
    published = Recipe().change("allocation", method="published").change("saliency", criterion="flap")
    assert default_name(published) == "smollm2-135m, 20 %, flap, as published"


def test_every_choice_of_a_plan_is_in_its_setting(recipe: Recipe) -> None:
    chosen = recipe.change("allocation", uniform=True, protected=(0, 29))
    assert setting(chosen) == [
        "gamma 4",
        "normalisation 0.5",
        "equal widths",
        "layers 0, 29 protected",
        "least squares",
    ]
    assert setting(recipe.change("allocation", gamma=math.inf, protected=(3,)))[0::2] == [
        "gamma inf",
        "layer 3 protected",
    ]


def test_names_labels_and_protocols_use_the_same_phrases(recipe: Recipe, tmp_path: Path) -> None:
    store, trial = Store(tmp_path), Choices("taylor", "python-docs", 0, 4.0, 0.5, "least_squares")
    runs = [store.create(recipe, name="One"), store.create(Recipe(), name="Other")]
    worded = (
        default_name(recipe),
        describe_matrix({"recipe": recipe.to_json()}, (0,)),
        describe_trial(trial),
        Point(0, "taylor", "shared", 0.125, "least_squares", 4.0, 0.5).label,
        headings(runs)[0],
    )
    for text in worded:
        assert all(phrase in text for phrase in PHRASES), text
    assert all("12.5 %" in text for text in worded if text != describe_trial(trial))
