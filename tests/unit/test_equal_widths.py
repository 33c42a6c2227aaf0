"""Allocation with equal widths against a naive search over all widths, and that it makes a plain checkpoint no loss."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from nirvana.allocation.allocate import allocate, reachable_sparsity
from nirvana.allocation.shared import pruning_rates
from nirvana.checkpoints.sizes import uniform_layout
from nirvana.errors import PlanError
from nirvana.layout import ATTENTION, CROSS_ATTENTION, KV_GROUP, MLP, NEURON, Layout, PlainForm, Site, SiteLayout
from nirvana.models.families.llama import LlamaFamily, MistralFamily
from nirvana.models.families.t5 import T5Family
from nirvana.saliency.scores import Saliency
from tests.seeds import over_seeds
from tests.unit.test_allocation import scores


def model(groups: list[int], neurons: list[int], *, group_cost: int = 512, neuron_cost: int = 96) -> Layout:
    sites = {}
    for layer, (heads, width) in enumerate(zip(groups, neurons, strict=True)):
        sites[Site("decoder", layer, ATTENTION)] = SiteLayout(heads, group_cost, KV_GROUP)
        sites[Site("decoder", layer, MLP)] = SiteLayout(width, neuron_cost, NEURON)
    return Layout(sites)


def t5(heads: int = 6, width: int = 40) -> Layout:
    sizes = {"num_layers": 3, "num_decoder_layers": 2, "d_model": 16, "d_kv": 4, "vocab_size": 50}
    return T5Family().layout({**sizes, "num_heads": heads, "d_ff": width})


def naive_plan(saliency: Saliency, sparsity: float, gamma: float, multiple: int) -> dict[Site, list[int]] | None:
    """Every pair of widths is tried, the narrowest first, attention before the MLP; None where nothing fits."""
    layout = saliency.layout
    attention = [site for site in layout if site.module != MLP]
    mlps = [site for site in layout if site.module == MLP]
    rates = pruning_rates(layout, sparsity=sparsity, gamma=gamma)
    if max(rates) > 1 + 1e-9:
        return None
    wanted = math.floor(rates.attention * sum(layout[site].units for site in attention) + 1e-9)
    budget = math.floor(sparsity * layout.prunable + 1e-6)

    most_groups = min(layout[site].units for site in attention)
    groups = most_groups
    divide = layout.plain.groups_divide
    for count in range(most_groups, 0, -1):
        if divide and divide % count:
            continue
        if sum(layout[site].units - count for site in attention) <= wanted:
            groups = count
    budget -= sum((layout[site].units - groups) * layout[site].cost for site in attention)

    widest = min(layout[site].units for site in mlps)
    allowed = [width for width in range(1, widest + 1) if width % multiple == 0 or width == widest]
    costs = {width: sum((layout[site].units - width) * layout[site].cost for site in mlps) for width in allowed}
    if budget > costs[allowed[0]]:
        return None
    fitting = [width for width in allowed if costs[width] <= budget]
    if not fitting:
        return None

    def best(site: Site, count: int) -> list[int]:
        together = [site]
        if (site.stack, site.module) in layout.plain.same_units:
            together = [other for other in layout if (other.stack, other.module) == (site.stack, site.module)]
        summed = [sum(float(saliency[other][unit]) for other in together) for unit in range(layout[site].units)]
        order = sorted(range(layout[site].units), key=lambda unit: (summed[unit], unit))
        return sorted(order[-count:])

    return {site: best(site, groups if site in attention else fitting[0]) for site in layout}


def case(seed: int) -> tuple[Saliency, float, float, int]:
    draw = np.random.default_rng(seed)
    layers = int(draw.integers(1, 6))
    if seed % 3:
        groups, neurons = [int(draw.integers(1, 6))] * layers, [int(draw.integers(4, 50))] * layers
    else:  # pruned before
        groups = [int(count) for count in draw.integers(1, 5, layers)]
        neurons = [int(count) for count in draw.integers(20, 50, layers)]
    layout = model(groups, neurons, group_cost=int(draw.integers(50, 900)))
    if seed % 5 == 1:
        layout = replace(layout, plain=PlainForm(groups_divide=4))
    elif seed % 5 == 2:
        layout = t5(int(draw.integers(1, 7)), int(draw.integers(4, 50)))
    gamma = [0.0, 0.5, 1.0, 3.36, math.inf][int(draw.integers(5))]
    saliency = scores(layout, seed=seed, levels=int(draw.choice([0, 3])))
    return saliency, float(draw.uniform(0.02, 0.9)), gamma, int(draw.choice([1, 4, 8]))


@over_seeds(200)
def test_equal_widths_are_those_of_the_naive_search(seed: int) -> None:
    saliency, sparsity, gamma, multiple = case(seed)
    expected = naive_plan(saliency, sparsity, gamma, multiple)
    if expected is None:
        with pytest.raises(PlanError):
            allocate(saliency, sparsity=sparsity, gamma=gamma, multiple_of=multiple, uniform=True)
        return
    plan = allocate(saliency, sparsity=sparsity, gamma=gamma, multiple_of=multiple, uniform=True)
    assert {site: kept.tolist() for site, kept in plan.items()} == expected
    assert plan.sparsity <= sparsity + 1e-9


def test_the_random_cases_hold_both_plans_and_refusals() -> None:
    plans = [naive_plan(*case(seed)) for seed in range(200)]
    assert 40 < sum(plan is None for plan in plans) < 160


def test_a_pruned_layout_of_equal_widths_loses_nothing_by_filling_up() -> None:
    saliency = scores(model([3] * 4, [48] * 4))
    equal = allocate(saliency, sparsity=0.3, uniform=True).pruned_layout
    uneven = allocate(saliency, sparsity=0.3).pruned_layout
    assert uniform_layout(equal, {}) == equal
    assert uniform_layout(uneven, {}).parameters > uneven.parameters


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.36, math.inf])
def test_the_reachable_maximum_is_reachable_and_named(gamma: float) -> None:
    saliency = scores(model([3] * 4, [40] * 4))
    limit = reachable_sparsity(saliency.layout, gamma=gamma, uniform=True)
    assert allocate(saliency, sparsity=limit, gamma=gamma, uniform=True).sparsity <= limit
    with pytest.raises(PlanError, match=f"at most {limit:.4f}"):
        allocate(saliency, sparsity=limit + 1e-3, gamma=gamma, uniform=True)


def test_the_request_is_missed_by_less_than_one_block_in_every_layer() -> None:
    layout = model([3] * 30, [1536] * 30, group_cost=4 * 64 * 576, neuron_cost=3 * 576)
    for sparsity in (0.1, 0.2, 0.35, 0.5):
        plan = allocate(scores(layout), sparsity=sparsity, uniform=True)
        assert 0 <= sparsity - plan.sparsity < 30 * 8 * 3 * 576 / layout.prunable


def test_the_note_says_what_every_layer_keeps() -> None:
    plan = allocate(scores(model([1] * 3, [40] * 3)), sparsity=0.4, gamma=1.0, uniform=True)
    assert plan.notes[0] == f"Every layer keeps 1 KV group and {len(plan[Site('decoder', 0, MLP)])} neurons."
    assert "gamma 1 asks for 1 KV groups; 0 are removed" in plan.notes[1]


def test_protected_layers_and_equal_widths_exclude_each_other() -> None:
    with pytest.raises(PlanError, match="protected layer"):
        allocate(scores(model([3] * 3, [40] * 3)), sparsity=0.2, protected=[0], uniform=True)


def test_uneven_layers_that_cost_more_than_the_budget_to_even_out_are_refused() -> None:
    with pytest.raises(PlanError, match="different widths already"):
        allocate(scores(model([3, 1, 3], [40, 8, 40])), sparsity=0.05, uniform=True)


def test_t5s_self_attentions_keep_the_same_heads_in_a_stack_and_everything_as_many() -> None:
    plan = allocate(scores(t5()), sparsity=0.4, gamma=1.0, uniform=True)
    for stack in ("encoder", "decoder"):
        heads = [plan[site].tolist() for site in plan if (site.stack, site.module) == (stack, ATTENTION)]
        assert heads == [heads[0]] * len(heads)
    cross = [plan[site].tolist() for site in plan if site.module == CROSS_ATTENTION]
    assert cross[0] != cross[1]  # which no position bias ties together
    assert len({len(plan[site]) for site in plan.layout.pool(KV_GROUP)}) == 1
    assert len({len(plan[site]) for site in plan.layout.pool(NEURON)}) == 1
    assert any("same heads" in note for note in plan.notes)


def test_heads_that_go_together_are_judged_together() -> None:
    layout = t5(heads=2)
    values = {site: np.ones(place.units, np.float32) for site, place in layout.items()}
    values[Site("encoder", 0, ATTENTION)] = np.array([1, 9], np.float32)
    values[Site("encoder", 1, ATTENTION)] = np.array([5, 3], np.float32)
    values[Site("encoder", 2, ATTENTION)] = np.array([5, 3], np.float32)
    plan = allocate(Saliency(values, layout, "random"), sparsity=0.5, gamma=1.0, uniform=True)
    assert all(plan[Site("encoder", layer, ATTENTION)].tolist() == [1] for layer in range(3))  # 15 against 11


def test_heads_lost_unevenly_before_are_not_forced_together() -> None:
    layout = t5()
    first = Site("encoder", 0, ATTENTION)
    pruned = replace(layout, sites=layout.sites | {first: layout[first]._replace(units=4)})
    plan = allocate(scores(pruned), sparsity=0.5, gamma=1.0, uniform=True)
    assert any("lost different heads before" in note for note in plan.notes)


def test_a_plain_llama_gets_a_number_of_heads_that_its_config_takes() -> None:
    config = {"hidden_size": 64, "num_attention_heads": 16, "num_key_value_heads": 8, "intermediate_size": 40}
    config |= {"num_hidden_layers": 3, "vocab_size": 50}
    plans = {
        family.name: allocate(scores(family.layout(config)), sparsity=0.3, gamma=1.0, uniform=True)
        for family in (LlamaFamily(), MistralFamily())
    }
    groups = {name: len(plan[Site("decoder", 0, ATTENTION)]) for name, plan in plans.items()}
    assert groups == {"Llama": 8, "Mistral": 6}  # 2 * 6 heads do not divide 64
    assert any("cannot have 6 KV groups" in note for note in plans["Llama"].notes)
    assert 0.2 < plans["Llama"].sparsity <= 0.3


def test_what_a_plain_form_asks_for_survives_json() -> None:
    layout = replace(t5(), plain=PlainForm((("encoder", ATTENTION),), 12))
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout
    old = {name: value for name, value in layout.to_json().items() if name != "plain"}
    assert Layout.from_json(old).plain == PlainForm()
