"""Widths of single sites in place of the rule's: the best-scored units stay, and all other sites are the rule's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nirvana as nv
from nirvana.allocation.allocate import allocate
from nirvana.allocation.widths import read_widths, words
from nirvana.errors import PlanError
from nirvana.layout import ATTENTION, MLP, Site
from nirvana.runs.recipe import AllocationChoice, Recipe
from nirvana.runs.validation import check_reachable
from tests.unit.test_allocation import model, scores

SITE = Site("decoder", 2, MLP)


def test_a_width_keeps_the_best_units_of_its_site_alone() -> None:
    saliency = scores(model())
    usual = allocate(saliency, sparsity=0.3)
    edited = allocate(saliency, sparsity=0.3, widths={SITE: 5})
    best = np.sort(np.argsort(-saliency[SITE], kind="stable")[:5])
    assert np.array_equal(edited[SITE], best) and len(usual[SITE]) != 5
    assert all(np.array_equal(edited[site], usual[site]) for site in usual if site != SITE)
    assert edited.notes[0] == f"Widths in place of the rule's: 1 of {len(usual)} modules."
    assert edited.requested == 0.3 and edited.sparsity != usual.sparsity


def test_widths_as_words_are_the_same_plan() -> None:
    saliency, widths = scores(model()), {SITE: 5, Site("decoder", 1, ATTENTION): 1}
    plans = [allocate(saliency, sparsity=0.3, widths=given) for given in (widths, words(widths))]
    assert plans[0].to_json() == plans[1].to_json()
    assert read_widths(words(widths), saliency.layout) == widths


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (["decoder.2.mlp"], "no width of a site"),
        (["decoder.2.mlp=many"], "no width of a site"),
        (["nonsense=3"], "no width of a site"),
        (["decoder.99.mlp=3"], r"no decoder\.99\.mlp"),
        (["decoder.2.mlp=3", "decoder.2.mlp=4"], "two widths"),
        (["decoder.2.mlp=0"], "cannot keep 0"),
        (["decoder.2.mlp=1000000"], "cannot keep 1,000,000"),
    ],
)
def test_impossible_widths_are_refused(widths: list[str], message: str) -> None:
    saliency = scores(model())
    with pytest.raises(PlanError, match=message):
        allocate(saliency, sparsity=0.3, widths=widths)
    with pytest.raises(PlanError, match=message):
        check_reachable(AllocationChoice(sparsity=0.3, widths=tuple(widths)), "nirvana", saliency.layout)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"uniform": True}, "not equal widths"), ({"protected": [2]}, r"decoder\.2\.mlp is protected")],
)
def test_widths_exclude_constraints_that_they_break(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        allocate(scores(model()), sparsity=0.1, widths={SITE: 5}, **options)


def test_a_recipe_without_widths_is_written_as_before() -> None:
    """So that results of earlier versions stay current."""
    assert "widths" not in Recipe().to_json()["allocation"]
    edited = Recipe().change("allocation", widths=("decoder.2.mlp=5",))
    assert edited.to_json()["allocation"]["widths"] == ("decoder.2.mlp=5",)
    assert nv.Recipe.from_json(edited.to_json()) == edited
    assert edited.fingerprint("allocation") != Recipe().fingerprint("allocation")
    assert edited.fingerprint("saliency") == Recipe().fingerprint("saliency")
