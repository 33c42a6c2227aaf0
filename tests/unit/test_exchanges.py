"""Exchanges of a local search: the budget stays exact, and every constraint holds after any number of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nirvana.allocation.allocate import allocate
from nirvana.allocation.constraints import Constraints, parameters
from nirvana.allocation.exchanges import HALVING, Exchange, draw_exchanges, exchanged
from nirvana.layout import ATTENTION, CROSS_ATTENTION, KV_GROUP, MLP, Layout, Site, SiteLayout
from tests.unit.test_allocation import model, scores


def start(layout: Layout, multiple: int = 4, **more: object) -> tuple[dict[Site, int], Constraints]:
    plan = allocate(scores(layout), sparsity=0.3, gamma=2, multiple_of=multiple, **more)  # type: ignore[arg-type]
    return {site: len(kept) for site, kept in plan.items()}, Constraints(layout, 2, multiple, plan.protected)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), neurons=st.sampled_from([40, 41, 64]), multiple=st.sampled_from([1, 4, 8]))
def test_any_chain_of_exchanges_keeps_the_budget_and_the_constraints(seed: int, neurons: int, multiple: int) -> None:
    layout = model(neurons=neurons)
    widths, constraints = start(layout, multiple, protected=[1])
    first, changed = dict(widths), False
    for step in range(1, 40):
        widths = exchanged(widths, draw_exchanges(widths, constraints, step, seed))
        assert parameters(layout, widths) == parameters(layout, first)
        changed |= widths != first
    for site, width in widths.items():
        units, floor = layout[site].units, 1 if site.module == ATTENTION else multiple
        assert floor <= width <= units
        assert site.module == ATTENTION or width % multiple == 0 or width == units
        assert site.layer != 1 or width == units
    assert changed  # the last step may lead back to the first widths


def test_a_step_is_determined_by_its_number_and_the_seed() -> None:
    widths, constraints = start(model())
    steps = [draw_exchanges(widths, constraints, step, 0) for step in range(1, 9)]
    assert steps == [draw_exchanges(widths, constraints, step, 0) for step in range(1, 9)]
    assert steps != [draw_exchanges(widths, constraints, step, 1) for step in range(1, 9)]
    assert {len(step) for step in steps} <= {1, 2, 3}


def test_neurons_move_in_a_quantum_that_halves_down_to_the_multiple() -> None:
    widths, constraints = start(model(neurons=640, layers=8), multiple=8)
    most = {}
    for step in (1, HALVING, 2 * HALVING, 20 * HALVING):
        drawn = [each for seed in range(60) for each in draw_exchanges(widths, constraints, step, seed)]
        most[step] = max(each.units for each in drawn if each.grown.module == MLP)
        assert {each.units for each in drawn if each.grown.module == ATTENTION} == {1}
    assert list(most.values()) == [80, 40, 16, 8]


def test_only_sites_of_one_kind_and_cost_exchange() -> None:
    sites = {
        Site("decoder", 0, ATTENTION): SiteLayout(4, 100, KV_GROUP),
        Site("decoder", 0, CROSS_ATTENTION): SiteLayout(4, 120, KV_GROUP),
    }
    constraints = Constraints(Layout(sites), 1, 1, ())
    assert all(draw_exchanges(dict.fromkeys(sites, 2), constraints, step, 0) == [] for step in range(20))


def test_nothing_is_exchanged_where_nothing_was_removed() -> None:
    layout = model()
    full = {site: place.units for site, place in layout.items()}
    assert draw_exchanges(full, Constraints(layout, 1, 8, ()), 1, 0) == []


def test_an_exchange_survives_json() -> None:
    exchange = Exchange(Site("decoder", 0, MLP), Site("encoder", 3, MLP), 16)
    assert Exchange.from_json(exchange.to_json()) == exchange
