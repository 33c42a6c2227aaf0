"""Allocation against a naive reading of the budget rule (method: exact budget), over many small random models."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from nirvana.allocation.allocate import allocate, reachable_sparsity
from nirvana.allocation.shared import pruning_rates
from nirvana.errors import PlanError
from nirvana.layout import ATTENTION, KV_GROUP, MLP, NEURON, Layout, Site, SiteLayout
from nirvana.plan import PruningPlan
from nirvana.saliency.scores import Saliency
from tests.seeds import over_seeds

INVALID_SPARSITIES = (0, 1, -0.2, 1.5, math.nan, math.inf)


def model(
    *, layers: int = 4, groups: int = 3, neurons: int = 40, group_cost: int = 512, neuron_cost: int = 96
) -> Layout:
    sites = {}
    for layer in range(layers):
        sites[Site("decoder", layer, ATTENTION)] = SiteLayout(groups, group_cost, KV_GROUP)
        sites[Site("decoder", layer, MLP)] = SiteLayout(neurons, neuron_cost, NEURON)
    return Layout(sites)


def scores(layout: Layout, *, seed: int = 0, levels: int = 0) -> Saliency:
    """Random scores; with `levels`, whole numbers below it, so that many are equal."""
    draw = np.random.default_rng(seed)
    values = {
        site: (draw.integers(0, levels, place.units) if levels else draw.random(place.units)).astype(np.float32)
        for site, place in layout.items()
    }
    return Saliency(values, layout, "random")


def naive_plan(
    saliency: Saliency, sparsity: float, gamma: float, multiple: int, protected: set[int]
) -> dict[Site, list[int]] | None:
    """The rule as it is written, unit by unit, with lists; None where the request is out of reach."""
    layout = saliency.layout
    attention = [site for site in layout if site.module == ATTENTION]
    mlps = [site for site in layout if site.module == MLP]
    weights_a = sum(layout[site].units * layout[site].cost for site in attention)
    weights_m = sum(layout[site].units * layout[site].cost for site in mlps)
    if math.isinf(gamma):
        v_attention, v_mlp = 0.0, sparsity * (weights_a + weights_m) / weights_m
    else:
        v_attention = sparsity * (weights_a + weights_m) / (weights_a + gamma * weights_m)
        v_mlp = gamma * v_attention
    if max(v_attention, v_mlp) > 1 + 1e-9:
        return None
    kept = {site: list(range(layout[site].units)) for site in layout}

    def worst_first(sites: list[Site]) -> list[tuple[float, int, int, Site]]:
        units = [
            (float(saliency[site][unit]), order, unit, site)
            for order, site in enumerate(sites)
            for unit in range(layout[site].units)
        ]
        return sorted(units)

    def best(site: Site, count: int) -> set[int]:
        order = sorted(range(layout[site].units), key=lambda unit: (saliency[site][unit], unit))
        return set(order[-count:])

    free = [site for site in attention if site.layer not in protected]
    wanted = math.floor(v_attention * sum(layout[site].units for site in attention) + 1e-9)
    for _, _, unit, site in worst_first(attention):
        if wanted and site in free and unit not in best(site, 1):
            kept[site].remove(unit)
            wanted -= 1

    budget = math.floor(sparsity * layout.prunable + 1e-6)
    budget -= sum((layout[site].units - len(kept[site])) * layout[site].cost for site in attention)
    cost = layout[mlps[0]].cost
    floors = {site: layout[site].units if site.layer in protected else multiple for site in mlps}
    if budget > sum(max(0, layout[site].units - floors[site]) * cost for site in mlps):
        return None
    marked = {site: set[int]() for site in mlps}
    count = budget // cost
    for _, _, unit, site in worst_first(mlps):
        if count and site.layer not in protected and unit not in best(site, multiple):
            marked[site].add(unit)
            count -= 1

    def ascending(site: Site, units: set[int] | list[int]) -> list[int]:
        return sorted(units, key=lambda unit: (saliency[site][unit], unit))

    for site in mlps:
        width = layout[site].units
        target = min(math.ceil((width - len(marked[site])) / multiple) * multiple, width)
        spared = ascending(site, marked[site])[width - target :]
        gone = marked[site] - set(spared)
        kept[site] = [unit for unit in kept[site] if unit not in gone]
        budget -= len(gone) * cost
    while True:
        blocks = []
        for order, site in enumerate(mlps):
            width = len(kept[site])
            size = width - (math.ceil(width / multiple) - 1) * multiple
            if site.layer not in protected and width - size >= multiple:
                block = ascending(site, kept[site])[:size]
                total = sum(float(saliency[site][unit]) for unit in block)
                blocks.append((total, order, site, block))
        if not blocks:
            break
        _, _, site, block = min(blocks, key=lambda entry: entry[:2])
        if len(block) * cost > budget:
            break
        kept[site] = [unit for unit in kept[site] if unit not in block]
        budget -= len(block) * cost
    return kept


@over_seeds(300)
def test_a_plan_is_the_naive_rules(seed: int) -> None:
    draw = np.random.default_rng(seed)
    layout = model(
        layers=int(draw.integers(1, 6)),
        groups=int(draw.integers(1, 5)),
        neurons=int(draw.integers(4, 60)),
        group_cost=int(draw.integers(1, 9)) * 64,
        neuron_cost=int(draw.integers(1, 4)) * 32,
    )
    saliency = scores(layout, seed=seed, levels=int(draw.choice([0, 3, 30])))
    sparsity = float(draw.uniform(0.02, 0.9))
    gamma = float(draw.choice([0.0, 0.5, 1.0, 3.36, math.inf]))
    multiple = int(draw.choice([1, 4, 8]))
    layers = layout.layers()
    protected = {layer for layer in layers if draw.random() < 0.2}
    expected = naive_plan(saliency, sparsity, gamma, multiple, protected)
    if expected is None:
        with pytest.raises(PlanError, match="out of reach"):
            allocate(saliency, sparsity=sparsity, gamma=gamma, multiple_of=multiple, protected=protected)
        return
    plan = allocate(saliency, sparsity=sparsity, gamma=gamma, multiple_of=multiple, protected=protected)
    assert {site: kept.tolist() for site, kept in plan.items()} == expected


def test_the_random_cases_hold_both_plans_and_refusals() -> None:
    reached = [
        naive_plan(scores(model(), seed=seed), sparsity, gamma, 8, set()) is not None
        for seed, (sparsity, gamma) in enumerate([(0.2, 1.0), (0.9, 0.0), (0.5, 3.36), (0.9, math.inf)])
    ]
    assert reached == [True, False, True, False]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.36, 20.0])
@pytest.mark.parametrize("sparsity", [0.05, 0.2, 0.4])
def test_achieved_sparsity_misses_by_less_than_one_block(sparsity: float, gamma: float) -> None:
    layout = model(layers=12, groups=4, neurons=160, group_cost=4096)
    plan = allocate(scores(layout), sparsity=sparsity, gamma=gamma)
    block = 8 * 96 / layout.prunable
    assert sparsity - block < plan.sparsity <= sparsity


def test_smollm2s_shape_is_met_within_half_a_thousandth() -> None:
    layout = model(layers=30, groups=3, neurons=1536, group_cost=2 * 64 * 4 * 576, neuron_cost=3 * 576)
    for sparsity in (0.1, 0.2, 0.35, 0.5):
        plan = allocate(scores(layout), sparsity=sparsity, gamma=3.36)
        assert abs(plan.sparsity - sparsity) < 0.0005
        assert all(len(kept) % 8 == 0 for site, kept in plan.items() if site.module == MLP)


def test_gamma_ties_the_two_rates() -> None:
    layout = model(layers=40, groups=8, neurons=800)
    plan = allocate(scores(layout), sparsity=0.25, gamma=2.0)
    wanted = pruning_rates(layout, sparsity=0.25, gamma=2.0)
    assert wanted.mlp == pytest.approx(2 * wanted.attention)
    assert plan.rate(KV_GROUP) == pytest.approx(wanted.attention, abs=1 / 320)
    assert plan.rate(NEURON) == pytest.approx(wanted.mlp, abs=0.01)


def test_gamma_infinity_leaves_attention_whole() -> None:
    plan = allocate(scores(model()), sparsity=0.3, gamma=math.inf)
    assert plan.rate(KV_GROUP) == 0
    assert plan.rate(NEURON) > 0


def test_gamma_zero_takes_from_the_mlp_only_what_whole_groups_leave() -> None:
    layout = model(layers=10, groups=4, group_cost=2048)
    plan = allocate(scores(layout), sparsity=0.2, gamma=0.0)
    removed_from_mlp = plan.rate(NEURON) * layout.pool_parameters(NEURON)
    assert 0 <= removed_from_mlp < 2048
    assert plan.rate(KV_GROUP) == pytest.approx(11 / 40)  # floor(0.2 * 120320 / 81920 * 40)


def test_each_layer_keeps_its_best_group_and_best_neurons() -> None:
    layout = model(layers=3, groups=4, neurons=48)
    values = {site: np.arange(place.units, dtype=np.float32) + 100 * site.layer for site, place in layout.items()}
    limit = reachable_sparsity(layout, gamma=1.0)
    plan = allocate(Saliency(values, layout, "random"), sparsity=limit, gamma=1.0)
    lowest = {site: kept.tolist() for site, kept in plan.items() if site.layer == 0}
    assert lowest[Site("decoder", 0, ATTENTION)] == [3]
    assert lowest[Site("decoder", 0, MLP)] == list(range(40, 48))


def test_one_kv_head_in_all_leaves_attention_to_the_mlp_and_says_so() -> None:
    plan = allocate(scores(model(groups=1)), sparsity=0.3, gamma=0.5)
    assert plan.rate(KV_GROUP) == 0
    assert abs(plan.sparsity - 0.3) < 8 * 96 / plan.layout.prunable
    assert "single KV group" in " ".join(plan.notes)


def test_protected_layers_keep_everything_and_count_in_the_target() -> None:
    plan = allocate(scores(model()), sparsity=0.3, gamma=1.0, protected=[0, Site("decoder", 2, MLP)])
    whole = [Site("decoder", 0, ATTENTION), Site("decoder", 0, MLP), Site("decoder", 2, MLP)]
    assert all(len(plan[site]) == plan.layout[site].units for site in whole)
    assert plan.protected == tuple(whole)
    assert abs(plan.sparsity - 0.3) < 8 * 96 / plan.layout.prunable


@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0, 3.36, math.inf])
@pytest.mark.parametrize("protected", [(), (1,)])
def test_the_reachable_maximum_is_reachable_and_named(gamma: float, protected: tuple[int, ...]) -> None:
    saliency = scores(model())
    limit = reachable_sparsity(saliency.layout, gamma=gamma, protected=protected)
    plan = allocate(saliency, sparsity=limit, gamma=gamma, protected=protected)
    assert plan.sparsity == pytest.approx(limit, abs=8 * 96 / saliency.layout.prunable)
    with pytest.raises(PlanError, match=f"at most {limit:.4f}"):
        allocate(saliency, sparsity=min(limit + 0.01, 0.999), gamma=gamma, protected=protected)


@pytest.mark.parametrize("sparsity", INVALID_SPARSITIES)
def test_impossible_sparsities_are_refused(sparsity: float) -> None:
    with pytest.raises(PlanError, match="between 0 and 1"):
        allocate(scores(model()), sparsity=sparsity)


@pytest.mark.parametrize("gamma", [-1.0, -math.inf, math.nan])
def test_impossible_gammas_are_refused(gamma: float) -> None:
    with pytest.raises(PlanError, match="gamma must be 0 or more"):
        allocate(scores(model()), sparsity=0.2, gamma=gamma)


@pytest.mark.parametrize("multiple_of", [0, -8, 2.5, True])
def test_impossible_multiples_are_refused(multiple_of: int) -> None:
    with pytest.raises(PlanError, match="multiple_of"):
        allocate(scores(model()), sparsity=0.2, multiple_of=multiple_of)


def test_an_unknown_layer_cannot_be_protected() -> None:
    with pytest.raises(PlanError, match="no layer 9"):
        allocate(scores(model()), sparsity=0.2, protected=[9])


def test_replanning_a_70b_model_uses_the_ranks_once_computed() -> None:
    layout = model(layers=80, groups=8, neurons=28672, group_cost=2 * 128 * 9 * 8192, neuron_cost=3 * 8192)
    saliency = scores(layout)
    for sparsity in (0.2, 0.5):
        plan = allocate(saliency, sparsity=sparsity, gamma=3.36 if sparsity < 0.4 else 1.0)
        assert abs(plan.sparsity - sparsity) < 8 * 3 * 8192 / layout.prunable


def test_equal_scores_give_one_answer() -> None:
    layout = model()
    flat = Saliency({s: np.ones(place.units, np.float32) for s, place in layout.items()}, layout, "random")
    first, second = (allocate(flat, sparsity=0.3) for _ in range(2))
    assert all(np.array_equal(first[site], second[site]) for site in first)
    assert len(first[Site("decoder", 0, MLP)]) < len(first[Site("decoder", 3, MLP)])  # lower layers go first


@pytest.mark.parametrize("gamma", [3.36, math.inf])
def test_a_plan_survives_json(gamma: float) -> None:
    plan = allocate(scores(model()), sparsity=0.3, gamma=gamma, protected=[1])
    again = PruningPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert all(np.array_equal(plan[site], again[site]) for site in plan)
    assert again.layout == plan.layout
    assert again.to_json() == plan.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": {}}, "other sites"),
        ({"gamma": "much"}, "not a pruning plan"),
        ({"layout": None}, "not a pruning plan"),
        ({"multiple_of": None}, "not a pruning plan"),
    ],
)
def test_a_damaged_plan_is_refused(change: dict[str, object], message: str) -> None:
    data = allocate(scores(model()), sparsity=0.3).to_json()
    with pytest.raises(PlanError, match=message):
        PruningPlan.from_json(data | change)


@pytest.mark.parametrize("indices", [[], [0, 0], [2, 1], [-1, 0], [0, 3]])
def test_a_plan_with_impossible_units_is_refused(indices: list[int]) -> None:
    data = allocate(scores(model()), sparsity=0.3).to_json()
    data["kept"]["decoder.0.attention"] = indices
    with pytest.raises(PlanError, match=r"decoder\.0\.attention"):
        PruningPlan.from_json(data)
