"""Budgets in time and bytes: exhaustive searches, made-up costs, and what plans record."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nirvana as nv
from nirvana.costs import CostTable, CostTables, SizeCosts
from nirvana.errors import PlanError
from nirvana.layout import KV_GROUP, NEURON, Layout, Site, SiteLayout
from nirvana.plan import PruningPlan
from nirvana.runs.recipe import Recipe
from tests.costs import PROTOCOL, convex_curves, linear, quadratic_curves, scored, stepped


def small_layout(layers: int = 2, groups: int = 3, neurons: int = 4) -> Layout:
    sites = {}
    for layer in range(layers):
        sites[Site("decoder", layer, "attention")] = SiteLayout(groups, 40, KV_GROUP)
        sites[Site("decoder", layer, "mlp")] = SiteLayout(neurons, 6, NEURON)
    return Layout(sites, {"embeddings": 100})


def removed(plan: PruningPlan) -> dict[Site, int]:
    return {site: plan.layout[site].units - len(kept) for site, kept in plan.items()}


def saved(costs: CostTable, layout: Layout, counts: dict[Site, int]) -> float:
    """Seconds that are saved, read from the table by hand."""
    total = 0.0
    for site, count in counts.items():
        kind = costs.modules[site.stack, site.module]
        total += kind.costs[kind.sizes.index(layout[site].units)]
        total -= kind.costs[kind.sizes.index(layout[site].units - count)]
    return total


def every_combination(layout: Layout) -> list[dict[Site, int]]:
    """All numbers of removed units that leave one unit at each site."""
    every = itertools.product(*(range(place.units) for place in layout.values()))
    return [dict(zip(layout, each, strict=True)) for each in every]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), price=st.floats(0.05, 3.0))
def test_no_combination_saves_as_much_time_for_less_kl(seed: int, price: float) -> None:
    """The combination with the least KL - price x time, found by hand for a price, has the least KL of all that save
    as much, whatever the steps of the costs: with its time as the budget, the plan must be one of these.
    """
    layout = small_layout(neurons=3)
    scores, costs = scored(layout, seed), stepped(layout, seed)
    curves = convex_curves(scores, seed)
    kl = {site: [0.0, *(point.kl for point in curve)] for site, curve in curves.items()}
    every = every_combination(layout)
    losses = [sum(kl[site][count] for site, count in each.items()) for each in every]
    times = [saved(costs, layout, each) for each in every]
    target = times[int(np.argmin([loss - price * time for loss, time in zip(losses, times, strict=True)]))]
    total = sum(costs.modules[site.stack, site.module].costs[-1] for site in layout)
    if not 0 < target < total:
        return
    how: dict[str, Any] = {"method": "measured", "multiple_of": 1, "budget": "latency", "costs": costs}
    plan = nv.allocate(scores, sparsity=target / total, sensitivity=curves, **how)
    mine = removed(plan)
    best = min(loss for loss, time in zip(losses, times, strict=True) if time >= target - 1e-9)
    assert saved(costs, layout, mine) == pytest.approx(target)
    assert sum(kl[site][count] for site, count in mine.items()) == pytest.approx(best)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95))
def test_the_budget_is_never_exceeded(seed: int, share: float) -> None:
    layout = small_layout()
    scores, costs = scored(layout, seed), stepped(layout, seed)
    how: dict[str, Any] = {"method": "measured", "multiple_of": 1, "budget": "latency", "costs": costs}
    limit = nv.reachable_sparsity(layout, **how)
    total = sum(costs.modules[site.stack, site.module].costs[-1] for site in layout)
    room = {site: place.units - 1 for site, place in layout.items()}
    assert limit == pytest.approx(saved(costs, layout, room) / total)
    plan = nv.allocate(scores, sparsity=share * limit, sensitivity=convex_curves(scores, seed), **how)
    time = saved(costs, layout, removed(plan))
    assert time <= share * limit * total + 1e-9 and plan.achieved == pytest.approx(time / total)
    for site, count in removed(plan).items():  # nothing is removed that saves no time
        assert not count or saved(costs, layout, {site: count}) > saved(costs, layout, {site: count - 1})


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), share=st.floats(0.1, 0.9))
def test_of_costs_by_the_unit_the_cheapest_combination_is_found(seed: int, share: float) -> None:
    """With equal savings of all units, the greedy order is exact."""
    layout = small_layout(neurons=3)
    scores, costs = scored(layout, seed), linear(layout, group=1.0, neuron=1.0)
    curves = convex_curves(scores, seed)
    limit = nv.reachable_sparsity(layout, method="measured", multiple_of=1, budget="latency", costs=costs)
    how: dict[str, Any] = {"method": "measured", "multiple_of": 1, "budget": "latency", "costs": costs}
    plan = nv.allocate(scores, sparsity=share * limit, sensitivity=curves, **how)
    kl = {site: [0.0, *(point.kl for point in curve)] for site, curve in curves.items()}
    count = sum(removed(plan).values())
    assert count == int(share * 8 + 1e-9)
    every = itertools.product(*(range(place.units) for place in layout.values()))
    best = min(sum(kl[site][n] for site, n in zip(layout, each, strict=True)) for each in every if sum(each) == count)
    assert sum(kl[site][n] for site, n in removed(plan).items()) == pytest.approx(best)


@pytest.mark.parametrize("method", ["shared", "measured", "published"])
@pytest.mark.parametrize("uniform", [False, True])
def test_the_budget_is_met_to_within_a_step(method: str, uniform: bool) -> None:
    layout = small_layout(layers=4, groups=6, neurons=64)
    scores = scored(layout)
    costs = linear(layout, group=3e-3, neuron=1e-4)
    how: dict[str, Any] = {"method": method, "uniform": uniform, "budget": "latency", "costs": costs}
    if method == "measured":
        how["sensitivity"] = quadratic_curves(scores)
    elif method == "shared":
        how["gamma"] = 1.5
    step = (4 if uniform else 1) * 8 * 1e-4 / (4 * (6 * 3e-3 + 64 * 1e-4))
    for sparsity in (0.1, 0.2, 0.35):
        plan = nv.allocate(scores, sparsity=sparsity, **how)
        time = sum(n * (3e-3 if site.module == "attention" else 1e-4) for site, n in removed(plan).items())
        assert plan.achieved == pytest.approx(time / (4 * (6 * 3e-3 + 64 * 1e-4)))
        slack = step if method != "published" else step + 2 * 3e-3 / (4 * (6 * 3e-3 + 64 * 1e-4))
        assert -1e-9 <= sparsity - plan.achieved < slack
        assert plan.budget == "latency" and plan.requested == sparsity
    with pytest.raises(PlanError, match=r"out of reach.*at most 0\.[0-9]+ can be removed"):
        nv.allocate(scores, sparsity=0.97, **how)


def test_dear_attention_moves_the_balance_to_it() -> None:
    layout = small_layout(layers=4, groups=6, neurons=64)
    scores = scored(layout)
    curves = quadratic_curves(scores)

    def rates(group: float, neuron: float, **how: Any) -> tuple[float, float]:
        costs = linear(layout, group=group, neuron=neuron)
        plan = nv.allocate(scores, sparsity=0.3, budget="latency", costs=costs, **how)
        return plan.rate(KV_GROUP), plan.rate(NEURON)

    measured: dict[str, Any] = {"method": "measured", "sensitivity": curves}
    dear, cheap = rates(5e-3, 1e-4, **measured), rates(1e-4, 1e-3, **measured)
    assert dear[0] > dear[1] and cheap[0] < cheap[1] and dear[0] > cheap[0]
    by_parameters = nv.allocate(scores, sparsity=0.3, **measured)
    equal = linear(layout, group=40.0, neuron=6.0)  # seconds like parameters
    same = nv.allocate(scores, sparsity=0.3, budget="latency", costs=equal, **measured)
    assert removed(same) == removed(by_parameters)
    # The shared rule keeps gamma, so dear attention only changes how much is removed.
    shared_dear, shared_cheap = rates(5e-3, 1e-4, gamma=2.0), rates(1e-4, 1e-3, gamma=2.0)
    assert sum(shared_dear) > sum(shared_cheap)
    alike = nv.allocate(scores, sparsity=0.3, budget="latency", costs=equal, gamma=2.0)
    assert removed(alike) == removed(nv.allocate(scores, sparsity=0.3, gamma=2.0))


def test_floors_protected_layers_and_multiples_hold() -> None:
    layout = small_layout(layers=4, groups=3, neurons=64)
    scores, costs = scored(layout), linear(layout)
    ways: list[dict[str, Any]] = [{"gamma": 1.0}, {"method": "measured", "sensitivity": convex_curves(scores, 3)}]
    for how in ways:
        plan = nv.allocate(scores, sparsity=0.35, protected=(1,), budget="latency", costs=costs, **how)
        assert all(len(kept) == layout[site].units for site, kept in plan.items() if site.layer == 1)
        for site, kept in plan.items():
            assert len(kept) >= 1 if site.module == "attention" else len(kept) % 8 == 0 and len(kept) >= 8
        with pytest.raises(PlanError, match="out of reach"):
            nv.allocate(scores, sparsity=0.9, protected=(0, 1, 2), budget="latency", costs=costs, **how)


def test_a_plateau_is_crossed_whole_or_not_at_all() -> None:
    """Blocks that save nothing are removed only together with one that does."""
    layout = Layout({Site("decoder", 0, "mlp"): SiteLayout(8, 6, NEURON)})
    scores = scored(layout)
    costs = CostTable({("decoder", "mlp"): SizeCosts((1, 3, 4, 7, 8), (1.0, 1.0, 2.0, 2.0, 3.0), 6)}, protocol=PROTOCOL)
    curves = convex_curves(scores, 0)
    how: dict[str, Any] = {"method": "measured", "multiple_of": 1, "sensitivity": curves, "budget": "latency"}
    widths = {
        sparsity: len(nv.allocate(scores, sparsity=sparsity, costs=costs, **how)[Site("decoder", 0, "mlp")])
        for sparsity in (0.1, 0.34, 0.6, 2 / 3 - 1e-12)
    }
    assert list(widths.values()) == [8, 7, 7, 3]


def test_bytes_are_parameters_unless_there_are_several_dtypes() -> None:
    layout = small_layout(layers=3, groups=4, neurons=64)
    scores = scored(layout)
    ways: list[dict[str, Any]] = [{"gamma": 2.0}, {"method": "measured", "sensitivity": convex_curves(scores, 1)}]
    for how in ways:
        plain = nv.allocate(scores, sparsity=0.3, **how)
        assert removed(nv.allocate(scores, sparsity=0.3, budget="bytes", **how)) == removed(plain)
        halves = linear(layout, group=80, neuron=12, unit="bytes")
        assert removed(nv.allocate(scores, sparsity=0.3, budget="bytes", costs=halves, **how)) == removed(plain)
        mixed = linear(layout, group=80, neuron=24, unit="bytes")  # neurons in twice the bytes
        plan = nv.allocate(scores, sparsity=0.3, budget="bytes", costs=mixed, **how)
        gone = sum(n * (80 if site.module == "attention" else 24) for site, n in removed(plan).items())
        assert 0 <= 0.3 - gone / (3 * (4 * 80 + 64 * 24)) < 8 * 24 / (3 * (4 * 80 + 64 * 24))


def test_a_missing_or_foreign_table_is_refused() -> None:
    layout, other = small_layout(), small_layout(neurons=8)
    scores, costs = scored(layout), linear(layout)
    with pytest.raises(PlanError, match="needs a cost table"):
        nv.allocate(scores, sparsity=0.2, budget="latency")
    with pytest.raises(PlanError, match="cannot use a cost table in bytes"):
        nv.allocate(scores, sparsity=0.2, budget="latency", costs=linear(layout, unit="bytes"))
    with pytest.raises(PlanError, match="does not fit"):
        nv.allocate(scored(other), sparsity=0.2, budget="latency", costs=costs)
    with pytest.raises(PlanError, match="no budget"):
        nv.allocate(scores, sparsity=0.2, budget="joules", costs=costs)
    without = CostTable({("encoder", "mlp"): SizeCosts((1,), (1.0,), 6)}, protocol=PROTOCOL)
    with pytest.raises(PlanError, match="no module"):
        nv.allocate(scores, sparsity=0.2, budget="latency", costs=without)


def test_a_plan_records_its_budget_and_predicted_time() -> None:
    layout = small_layout(layers=2, groups=3, neurons=64)
    scores, costs = scored(layout), linear(layout, group=1e-3, neuron=1e-4)
    plan = nv.allocate(scores, sparsity=0.3, budget="latency", costs=costs)
    found = plan.predicted
    assert found is not None
    gone = sum(n * (1e-3 if site.module == "attention" else 1e-4) for site, n in removed(plan).items())
    dense = 5e-3 + 2 * 2e-4 + 2 * (3e-3 + 64e-4)
    assert found.dense == pytest.approx(dense) and found.pruned == pytest.approx(dense - gone)
    assert found.ratio == pytest.approx(dense / (dense - gone)) and found.share == pytest.approx(plan.achieved)
    assert any("times as fast" in note for note in plan.notes)
    again = PruningPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again.predicted == found and again.budget == "latency" and again.to_json() == plan.to_json()
    edited = nv.edit_plan(plan, ["keep decoder.0"])
    assert edited.predicted is None and np.isnan(edited.achieved)
    told = nv.allocate(scores, sparsity=0.3, costs=costs)  # a plan by parameters with a prediction
    assert told.predicted is not None and told.achieved == told.sparsity
    plain = nv.allocate(scores, sparsity=0.3)
    assert not {"budget", "predicted"} & set(plain.to_json()) and told.hash == plain.hash


def test_modules_that_a_phase_does_not_run_are_spared() -> None:
    """While decoding, an encoder takes no time."""
    sites = {
        Site(stack, layer, module): SiteLayout(*((4, 40, KV_GROUP) if module == "attention" else (32, 6, NEURON)))
        for stack in ("encoder", "decoder")
        for layer in (0, 1)
        for module in ("attention", "mlp")
    }
    layout = Layout(sites)
    scores, whole = scored(layout), linear(layout, group=40e-6, neuron=6e-6)
    costs = CostTable({kind: own for kind, own in whole.modules.items() if kind[0] == "decoder"}, protocol=PROTOCOL)
    how: dict[str, Any] = {"sparsity": 0.3, "multiple_of": 1, "budget": "latency", "costs": costs}
    plan = nv.allocate(scores, method="measured", sensitivity=quadratic_curves(scores), **how)
    assert all(not count for site, count in removed(plan).items() if site.stack == "encoder")
    assert plan.achieved == pytest.approx(0.3, abs=0.05)
    shared = nv.allocate(scores, gamma=1.0, **how)  # keeps its order, whatever takes time
    mlps = [(site.stack, count) for site, count in removed(shared).items() if site.module == "mlp"]
    rates = [sum(count for of, count in mlps if of == stack) for stack in layout.stacks]
    assert abs(rates[0] - rates[1]) < 16 and shared.achieved <= 0.3


def test_removed_layers_cost_nothing() -> None:
    layout = small_layout(layers=3)
    costs = linear(layout, group=1e-3, neuron=1e-4)
    widths = {site: place.units for site, place in layout.items() if site.layer != 1}
    found = costs.predict(layout, widths)
    assert found.dense - found.pruned == pytest.approx(2e-4 + 3e-3 + 4e-4)


def test_a_table_survives_json_and_foreign_json_is_refused() -> None:
    costs = stepped(small_layout(), 0)
    again = CostTable.from_bytes(costs.to_bytes())
    assert again.to_json() == costs.to_json() and again.hash == costs.hash
    for change in (
        {"modules": {"mlp": costs.to_json()["modules"]["decoder.mlp"]}},
        {"modules": {"decoder.mlp": {"weights": 6, "sizes": [1, 2], "costs": [2.0, 1.0]}}},
        {"modules": {"decoder.mlp": {"weights": 6, "sizes": [2, 1], "costs": [1.0, 2.0]}}},
        {"modules": {"decoder.mlp": {"weights": 6, "sizes": [1], "costs": ["nan"]}}},
        {"fixed": -1},
        {"blocks": None},
    ):
        with pytest.raises(PlanError, match="no cost table"):
            CostTable.from_json(costs.to_json() | change)


def test_tables_are_found_by_their_protocol_and_replaced() -> None:
    layout = small_layout()
    one, two = linear(layout), linear(layout, phase="decode")
    tables = CostTables((one,)).adding(CostTables((two,)))
    assert tables.find("decode", 1, 128) is two and tables.find("prefill", 1, 64) is None
    newer = linear(layout, group=2e-3)
    assert tables.adding(CostTables((newer,))).tables == (newer, two)
    again = CostTables.from_json(json.loads(json.dumps(tables.to_json())))
    assert [table.to_json() for table in again.tables] == [one.to_json(), two.to_json()]


def test_between_sizes_costs_are_linear_and_beyond_them_constant() -> None:
    kind = SizeCosts((2, 4, 8), (1.0, 3.0, 4.0), 6)
    assert kind.at(np.array([1, 2, 3, 6, 8, 9])).tolist() == [1.0, 1.0, 2.0, 3.5, 4.0, 4.0]


def test_a_recipe_leaves_the_budget_out_at_its_default() -> None:
    recipe = Recipe()
    assert not any(name.startswith("budget") for name in recipe.to_json()["allocation"])
    changed = recipe.change("allocation", budget="latency", budget_phase="decode", budget_length=512)
    assert changed.fingerprint("allocation") != recipe.fingerprint("allocation")
    assert Recipe.from_json(json.loads(json.dumps(changed.to_json()))) == changed
    assert "budget" not in changed.allocation.cost_protocol and changed.allocation.cost_protocol["length"] == 512
    with pytest.raises(PlanError, match="parameters, bytes, latency"):
        recipe.change("allocation", budget="joules")
