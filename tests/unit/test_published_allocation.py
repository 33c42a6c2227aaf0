"""Published allocations against slow ones, over many small random models, and what each promises."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from nirvana.allocation import rules
from nirvana.allocation.allocate import allocate, reachable_sparsity
from nirvana.errors import PlanError
from nirvana.layout import ATTENTION, KV_GROUP, MLP, NEURON, Layout, Site, SiteLayout
from nirvana.models.families.t5 import T5Family
from nirvana.plan import PruningPlan
from nirvana.saliency import criteria
from nirvana.saliency.scores import Saliency
from tests import allocation_oracle as slow
from tests.seeds import over_seeds
from tests.unit.test_allocation import model, scores

Publish = Callable[[str], None]
RULES = ("per-layer", "per-layer-middle", "joint", "layers")


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    """`publish("joint")`: the authors of every criterion publish that rule."""

    def to(rule: str) -> None:
        monkeypatch.setattr(criteria, "published_allocation", lambda criterion: rule)

    return to


def case(seed: int) -> tuple[Saliency, float, int, set[int]]:
    draw = np.random.default_rng(seed)
    layout = model(
        layers=int(draw.integers(1, 8)),
        groups=int(draw.integers(1, 6)),
        neurons=int(draw.integers(8, 60)),
        group_cost=int(draw.integers(1, 9)) * 64,
        neuron_cost=int(draw.integers(1, 4)) * 32,
    )
    if seed % 3 == 0:  # pruned before
        uneven = {site: place._replace(units=int(draw.integers(1, place.units + 1))) for site, place in layout.items()}
        layout = Layout(uneven)
    saliency = scores(layout, seed=seed, levels=int(draw.choice([0, 3, 30])))
    if seed % 4 == 0:  # standardised scores have both signs
        saliency = Saliency({site: values - 2 for site, values in saliency.items()}, layout, "random")
    protected = {layer for layer in layout.layers() if draw.random() < 0.15}
    return saliency, float(draw.uniform(0.02, 0.9)), int(draw.choice([1, 4, 8])), protected


def sites_of(layout: Layout, layers: set[int]) -> set[Site]:
    return {site for site in layout if site.layer in layers}


@over_seeds(200)
@pytest.mark.parametrize("rule", RULES)
def test_a_published_plan_is_the_slow_one(rule: str, seed: int, publish: Publish) -> None:
    publish(rule)
    saliency, sparsity, multiple, protected = case(seed)
    layout = saliency.layout
    held = sites_of(layout, protected)
    if rule == "per-layer-middle":
        count = len(layout.layers())
        ends = layout.layers()[: round(count / 8 + 1e-9)] + layout.layers()[count - round(count / 16 + 1e-9) :]
        held |= sites_of(layout, set(ends))
    expected: slow.Kept | None
    if rule == "layers":
        gone = slow.layers(saliency, sparsity, held)
        expected = {s: list(range(p.units)) for s, p in layout.items() if (s.stack, s.layer) not in gone}
    elif rule == "joint":
        expected = slow.joint(saliency, sparsity, multiple, held)
    else:
        expected = slow.per_layer(saliency, sparsity, multiple, held)
    limit = reachable_sparsity(layout, multiple_of=multiple, protected=protected, method="published")

    def ask() -> PruningPlan:
        return allocate(saliency, sparsity=sparsity, multiple_of=multiple, protected=protected, method="published")

    if sparsity > limit:
        assert expected is None or rule == "layers"
        with pytest.raises(PlanError, match=f"at most {limit:.4f}"):
            ask()
        return
    plan = ask()
    assert {site: kept.tolist() for site, kept in plan.items()} == expected
    assert plan.sparsity <= sparsity + 1e-9
    assert plan.method == rule


@pytest.mark.parametrize("rule", RULES)
def test_the_random_cases_hold_both_plans_and_refusals(rule: str, publish: Publish) -> None:
    publish(rule)
    reached = []
    for saliency, sparsity, multiple, protected in map(case, range(200)):
        constraints = {"multiple_of": multiple, "protected": protected, "method": "published"}
        reached.append(sparsity <= reachable_sparsity(saliency.layout, **constraints))  # type: ignore[arg-type]
    assert 40 < sum(reached) < 200


@pytest.mark.parametrize("sparsity", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("rule", ["per-layer", "per-layer-middle", "joint"])
def test_the_request_is_missed_by_less_than_one_block(rule: str, sparsity: float, publish: Publish) -> None:
    publish(rule)
    layout = model(layers=30, groups=3, neurons=1536, group_cost=2 * 64 * 4 * 576, neuron_cost=3 * 576)
    plan = allocate(scores(layout), sparsity=sparsity, method="published")
    assert 0 <= sparsity - plan.sparsity < 8 * 3 * 576 / layout.prunable


def test_one_ratio_holds_over_the_layers_where_it_cannot_hold_in_each(publish: Publish) -> None:
    publish("per-layer")
    layout = model(layers=30, groups=3, neurons=1536, group_cost=2 * 64 * 4 * 576, neuron_cost=3 * 576)
    plan = allocate(scores(layout), sparsity=0.2, method="published")
    lost = [3 - len(plan[site]) for site in layout.pool(KV_GROUP)]
    assert sum(lost) == 18 and max(lost) == 1  # 20 % of 90
    assert [sum(lost[start : start + 5]) for start in range(0, 30, 5)] == [3] * 6  # spread evenly
    widths = [len(plan[site]) for site in layout.pool(NEURON)]
    assert max(widths) - min(widths) == 8
    assert plan.gamma == 1 and any("carried to the next" in note for note in plan.notes)


def test_the_ends_of_each_stack_are_left_alone_as_in_llm_pruner(publish: Publish) -> None:
    publish("per-layer-middle")
    plan = allocate(scores(model(layers=32, groups=8)), sparsity=0.2, method="published")
    whole = [site.layer for site in plan if len(plan[site]) == plan.layout[site].units and site.module == MLP]
    assert whole == [0, 1, 2, 3, 30, 31]
    sizes = {"num_layers": 8, "num_decoder_layers": 8, "d_model": 16, "d_kv": 4, "vocab_size": 50}
    t5 = T5Family().layout({**sizes, "num_heads": 8, "d_ff": 80})
    left_alone = {(site.stack, site.layer) for site in allocate(scores(t5), sparsity=0.2, method="published").protected}
    assert left_alone == {(stack, layer) for stack in ("encoder", "decoder") for layer in (0, 7)}


def test_a_kv_group_weighs_as_many_neurons_as_it_has_parameters(publish: Publish) -> None:
    publish("joint")
    sites = {
        Site("decoder", 0, ATTENTION): SiteLayout(2, 30, KV_GROUP),
        Site("decoder", 0, MLP): SiteLayout(4, 10, NEURON),
    }
    values = {
        Site("decoder", 0, ATTENTION): np.array([0.2, 0.9], np.float32),
        Site("decoder", 0, MLP): np.array([0.1, 0.3, 0.4, 0.5], np.float32),
    }
    saliency = Saliency(values, Layout(sites), "random")
    for weights, heads, neurons in ((10, 2, 3), (30, 2, 1), (40, 1, 3), (60, 1, 1)):
        plan = allocate(saliency, sparsity=weights / 100, multiple_of=1, method="published")
        assert [len(plan[site]) for site in sites] == [heads, neurons]


def test_equal_widths_at_one_ratio_are_those_of_gamma_one(publish: Publish) -> None:
    publish("per-layer")
    saliency = scores(model(layers=6, groups=8))
    plan = allocate(saliency, sparsity=0.3, uniform=True, method="published")
    same = allocate(saliency, sparsity=0.3, uniform=True, gamma=1.0)
    assert all(np.array_equal(plan[site], same[site]) for site in plan)
    assert (plan.method, same.method) == ("per-layer", "shared")


@pytest.mark.parametrize("rule", ["per-layer-middle", "joint", "layers"])
def test_rules_that_give_layers_widths_of_their_own_refuse_equal_ones(rule: str, publish: Publish) -> None:
    publish(rule)
    with pytest.raises(PlanError, match=f"\\({rule}\\) does not give all layers equal widths"):
        allocate(scores(model()), sparsity=0.3, uniform=True, method="published")


def test_whole_layers_go_from_decoders_only(publish: Publish) -> None:
    publish("layers")
    sizes = {"num_layers": 2, "d_model": 16, "d_kv": 4, "vocab_size": 50, "num_heads": 2, "d_ff": 40}
    layout = T5Family().layout(sizes)
    for ask in (
        lambda: allocate(scores(layout), sparsity=0.3, method="published"),
        lambda: reachable_sparsity(layout, method="published"),
    ):
        with pytest.raises(PlanError, match="this model has an encoder too"):
            ask()


def test_the_lowest_layers_go_and_the_note_names_the_step(publish: Publish) -> None:
    publish("layers")
    layout = model(layers=5)
    values = {site: np.full(place.units, (3, 1, 4, 0, 2)[site.layer], np.float32) for site, place in layout.items()}
    saliency = Saliency(values, layout, "random")
    plan = allocate(saliency, sparsity=0.5, method="published")
    assert plan.removed_layers == (("decoder", 1), ("decoder", 3))
    assert plan.sparsity == pytest.approx(0.4)
    assert "1, 3" in plan.notes[0] and "20.00%" in plan.notes[0]
    spared = allocate(saliency, sparsity=0.5, method="published", protected=[3])
    assert spared.removed_layers == (("decoder", 1), ("decoder", 4))
    nothing = allocate(saliency, sparsity=0.1, method="published")
    assert nothing.removed == 0 and "smaller than one layer" in nothing.notes[0]
    assert reachable_sparsity(layout, method="published") == pytest.approx(0.8)


@pytest.mark.parametrize("rule", ["shared", *RULES])
def test_plans_say_which_rule_made_them(rule: str, publish: Publish) -> None:
    publish(rule)
    plan = allocate(scores(model()), sparsity=0.3, method="published")
    data = json.loads(json.dumps(plan.to_json()))
    assert data["method"] == rule
    again = PruningPlan.from_json(data)
    assert again.method == rule and again.removed_layers == plan.removed_layers
    assert PruningPlan.from_json({name: data[name] for name in data if name != "method"}).method == "shared"


def test_the_published_allocation_is_the_criterions_own() -> None:
    saliency = scores(model(layers=8))  # of the criterion random
    assert allocate(saliency, sparsity=0.3, method="published").method == "per-layer"
    paper = Saliency(saliency.scores, saliency.layout, "nirvana")
    published, shared = (allocate(paper, sparsity=0.3, method=method) for method in ("published", "shared"))
    assert all(np.array_equal(published[site], shared[site]) for site in shared)


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(PlanError, match="no allocation method 'best'"):
        allocate(scores(model()), sparsity=0.3, method="best")


def test_every_published_rule_is_there() -> None:
    assert {criteria.published_allocation(name) for name in criteria.available()} <= set(rules.RULES)
