"""Plans edited by hand: the words, the plan, what is refused, and the predicted losses against slow counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nirvana as nv
from nirvana.allocation.allocate import allocate
from nirvana.allocation.edits import Edits, edit_plan, read_edits
from nirvana.allocation.prediction import predicted_kl, removed_score
from nirvana.errors import PlanError
from nirvana.layout import ATTENTION, MLP, Layout, Site
from nirvana.loss_curves import Sensitivity, Shift
from nirvana.models.families.t5 import T5Family
from nirvana.plan import PruningPlan
from nirvana.runs.describe import default_name
from nirvana.runs.recipe import AllocationChoice, Recipe
from nirvana.runs.validation import check_reachable
from tests.app.conftest import SMALL_T5
from tests.unit.test_allocation import model, scores

SITE = Site("decoder", 2, MLP)
LAYOUT = model()


def plan_of(**options: Any) -> PruningPlan:
    return allocate(scores(LAYOUT), sparsity=0.3, **options)


def test_units_are_kept_and_removed_and_all_others_stay() -> None:
    plan = plan_of()
    gone = np.setdiff1d(np.arange(40), plan[SITE])
    kept, removed = int(gone[0]), int(plan[SITE][0])
    edited = edit_plan(plan, [f"keep decoder.2.mlp.{kept}", f"remove decoder.2.mlp.{removed}"])
    assert set(edited[SITE]) == {*plan[SITE], kept} - {removed}
    assert all(np.array_equal(edited[site], plan[site]) for site in plan if site != SITE)
    assert edited.sparsity == plan.sparsity and edited.requested == plan.requested
    assert edited.notes[0].startswith("Edited by hand: 1 unit kept, 1 unit removed.")
    assert PruningPlan.from_json(edited.to_json()).to_json() == edited.to_json()


def test_layers_are_kept_whole_and_removed() -> None:
    plan = plan_of()
    edited = edit_plan(plan, ["keep decoder.2", "remove decoder.1", "remove decoder.2.mlp.3"])
    assert edited.removed_layers == (("decoder", 1),)
    assert [site.layer for site in edited] == [0, 0, 2, 2, 3, 3]
    assert len(edited[SITE]) == 39 and 3 not in edited[SITE] and len(edited[Site("decoder", 2, ATTENTION)]) == 3
    restored = edit_plan(edited, ["keep decoder.1"])
    assert list(restored) == list(LAYOUT) and not restored.removed_layers
    assert restored.edits == (*edited.edits, "keep decoder.1")


def test_the_edits_of_allocate_are_those_of_the_plan() -> None:
    words = ("remove decoder.0", "keep decoder.2.mlp.0-7,9")
    plan = plan_of(edits=words)
    assert plan.to_json() == edit_plan(plan_of(), words).to_json()
    assert plan.edits == words
    assert edit_plan(plan_of(), ()).to_json() == plan_of().to_json()


@given(st.data())
def test_words_say_the_same_edits(data: st.DataObject) -> None:
    sites = data.draw(st.lists(st.sampled_from(list(LAYOUT)), unique=True, max_size=3))
    units = {
        site: data.draw(st.dictionaries(st.integers(0, LAYOUT[site].units - 1), st.booleans(), min_size=1))
        for site in LAYOUT
        if site in sites
    }
    layers = {("decoder", layer): data.draw(st.booleans()) for layer in (0, 3) if data.draw(st.booleans())}
    edits = Edits(units, layers)
    again = read_edits(edits.words, LAYOUT)
    assert again.layers == edits.layers
    assert {site: dict(own) for site, own in again.units.items()} == units
    assert again.words == edits.words


def test_one_edit_at_a_time() -> None:
    edits = Edits().with_unit(SITE, 3, False).with_unit(SITE, 4, False).with_unit(SITE, 9, True)
    assert edits.words == ("keep decoder.2.mlp.9", "remove decoder.2.mlp.3-4")
    assert edits.with_unit(SITE, 9, None).words == ("remove decoder.2.mlp.3-4",)
    assert edits.with_layer(("decoder", 2), False).words == ("remove decoder.2",), "its units' edits go"
    assert edits.with_layer(("decoder", 2), False).with_layer(("decoder", 2), None).words == ()


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (["remove"], "is no edit"),
        (["drop decoder.2"], "is no edit"),
        (["remove decoder.2.mlp"], "is no edit"),
        (["remove decoder.2.mlp.x"], "is no edit"),
        (["remove decoder.2.mlp.3-"], "is no edit"),
        (["remove decoder.2.mlp.3,"], "is no edit"),
        (["remove decoder.two"], "is no edit"),
        (["remove decoder.9"], "no layer decoder.9"),
        (["remove encoder.0.mlp.0"], r"no encoder\.0\.mlp"),
        (["remove decoder.2.mlp.40"], "names no neurons"),
        (["remove decoder.2.mlp.7-3"], "names no neurons"),
        (["keep decoder.2", "remove decoder.2"], "both kept and removed"),
        (["keep decoder.2.mlp.3", "remove decoder.2.mlp.1-4"], "both kept and removed"),
    ],
)
def test_words_that_are_no_edits(edits: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_of(edits=edits)
    with pytest.raises(PlanError, match=message):
        check_reachable(AllocationChoice(sparsity=0.3, edits=tuple(edits)), "nirvana", LAYOUT)


@pytest.mark.parametrize(
    ("options", "edits", "message"),
    [
        ({}, ["remove decoder.2.mlp.0-39"], "would keep no unit"),
        ({}, ["remove decoder.2", "keep decoder.2.mlp.3"], "is removed, so its units"),
        ({}, [f"remove decoder.{layer}" for layer in range(4)], "at least one layer"),
        ({"protected": [2]}, ["remove decoder.2.mlp.3"], "is protected"),
        ({"protected": [2]}, ["remove decoder.2"], "is protected"),
        ({"uniform": True}, ["remove decoder.2.mlp.3"], "equal widths"),
    ],
)
def test_impossible_edits_are_refused(options: dict[str, Any], edits: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_of(edits=edits, **options)


def test_an_encoder_decoder_keeps_its_layers() -> None:
    layout = T5Family().layout(SMALL_T5)
    plan = allocate(scores(layout), sparsity=0.2)
    with pytest.raises(PlanError, match="defined for decoders"):
        edit_plan(plan, ["remove encoder.1"])
    assert len(edit_plan(plan, ["keep encoder.1"])[Site("encoder", 1, MLP)]) == 96


def test_edits_belong_to_one_round_and_to_the_recipe() -> None:
    recipe = Recipe().change("allocation", edits=("remove decoder.2",))
    assert "edits" not in Recipe().to_json()["allocation"], "so that results of earlier versions stay current"
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.fingerprint("allocation") != Recipe().fingerprint("allocation")
    assert "1 edit by hand" in default_name(recipe)
    with pytest.raises(PlanError, match="one round"):
        recipe.allocation.with_values(rounds=2).check_rounds()


def test_the_removed_score_is_a_share_of_all_scores() -> None:
    saliency = scores(LAYOUT)
    plan = edit_plan(allocate(saliency, sparsity=0.3), ["remove decoder.1", "keep decoder.2.mlp.5"])
    total = gone = 0.0
    for site, values in saliency.items():
        for unit, value in enumerate(values):
            total += float(value)
            gone += 0.0 if unit in plan.get(site, ()) else float(value)
    assert removed_score(saliency, plan) == pytest.approx(gone / total)
    assert nv.removed_score(saliency, edit_plan(plan, ["remove decoder.2.mlp.5"])) > removed_score(saliency, plan)


def curves(layout: Layout) -> Sensitivity:
    """KL of a site: 0.01 for each removed unit, at every number of units."""
    found = {
        site: tuple(Shift(0.01 * gone, 0.0, gone, place.units) for gone in range(1, place.units + 1))
        for site, place in layout.items()
    }
    return Sensitivity(found, {"compensation": {"method": "none"}})


def test_predicted_kl_of_the_lowest_scored_units_is_read_from_the_curves() -> None:
    saliency = scores(LAYOUT)
    plan = allocate(saliency, sparsity=0.3, multiple_of=1)
    removed = sum(LAYOUT[site].units - len(kept) for site, kept in plan.items())
    assert predicted_kl(curves(LAYOUT), saliency, plan) == pytest.approx(0.01 * removed)


def test_a_high_scored_unit_counts_as_many_low_scored_ones() -> None:
    saliency = scores(LAYOUT)
    whole = allocate(saliency, sparsity=1e-9)
    best, worst = (int(np.argsort(saliency[SITE])[place]) for place in (-1, 0))
    values = np.sort(saliency[SITE].astype(np.float64))
    one, many = (
        nv.predicted_kl(curves(LAYOUT), saliency, edit_plan(whole, [f"remove {SITE.key}.{unit}"]))
        for unit in (worst, best)
    )
    assert one == pytest.approx(0.01)
    alike = next(gone for gone in range(41) if values[:gone].sum() > values[-1])  # a little more than the best unit
    assert 0.01 * (alike - 1) <= many <= 0.01 * alike and many > 5 * one


def test_equal_scores_count_by_number() -> None:
    saliency = scores(LAYOUT, levels=2)
    whole = allocate(saliency, sparsity=1e-9)
    edited = edit_plan(whole, [f"remove {SITE.key}.0-9", "remove decoder.0"])
    assert predicted_kl(curves(LAYOUT), saliency, edited) == pytest.approx(0.01 * (10 + 43))


def test_predictions_need_the_scores_of_the_model() -> None:
    with pytest.raises(PlanError, match="another shape"):
        removed_score(scores(model(layers=2)), plan_of())
