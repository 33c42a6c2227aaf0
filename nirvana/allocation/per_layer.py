"""One ratio in every layer, units ranked within each site (as magnitude, Wanda-sp and LLM-Pruner are published)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nirvana.allocation.constraints import Chosen, Constraints, general_notes, lowest_go, parameters
from nirvana.layout import KV_GROUP, NEURON, Layout, Site
from nirvana.saliency.scores import Saliency

# LLM-Pruner (arXiv 2305.11627) prunes layers 4 to 29 of 32.
FIRST, LAST, OF = 4, 2, 32


def choose(saliency: Saliency, constraints: Constraints, sparsity: float) -> Chosen:
    """The lowest-scored units of each site go, attention and MLP at the same ratio.

    Sites lose whole steps: a KV group, or what lies between two multiples of the width. What a site's ratio leaves over
    is carried to the next layer, so that the ratio holds over the layers where it cannot hold in each: of 3 KV groups,
    20 % is one in two layers of three. Protected layers, and floors, raise the ratio of the rest. Widths make up for
    what whole KV groups leave of the budget.

    Raises:
        PlanError: the sparsity is out of reach; the reachable maximum is named.
    """
    layout, removable = constraints.layout, constraints.removable
    budget = constraints.affordable(sparsity)
    ratio = common_ratio(constraints, list(layout), budget)
    heads, mlps = layout.pool(KV_GROUP), layout.pool(NEURON)
    removed = _carry(constraints, heads, ratio, lambda site, count: min(int(count + 1e-9), removable[site]))
    room = sum(removable[site] * layout[site].cost for site in mlps)
    left = min(budget - parameters(layout, removed), room)
    removed |= _carry(constraints, mlps, common_ratio(constraints, mlps, left), constraints.most_neurons)
    notes = [f"One ratio in every layer: {ratio:.2%}, units ranked within each."]
    if any(ratio * layout[site].units % 1 > 1e-6 for site in heads if removable[site]):
        notes.append("A ratio is no whole number of KV groups: what one layer leaves over is carried to the next.")
    return Chosen(lowest_go(saliency, removed), (*notes, *general_notes(constraints, removed)))


def equal_rates(constraints: Constraints) -> Constraints:
    """The same constraints with the gamma that this rule comes down to."""
    return replace(constraints, gamma=1.0)


def middle(constraints: Constraints) -> Constraints:
    """As `equal_rates`, with the first few and the last layers of each stack protected, scaled to its depth."""
    layout = constraints.layout
    ends = {(stack, layer) for stack in layout.stacks for layer in _ends(layout, stack)}
    kept = set(constraints.protected) | {site for site in layout if (site.stack, site.layer) in ends}
    return replace(equal_rates(constraints), protected=tuple(site for site in layout if site in kept))


def _ends(layout: Layout, stack: str) -> list[int]:
    layers = layout.layers(stack)
    first, last = (int(len(layers) * share / OF + 0.5) for share in (FIRST, LAST))
    return [*layers[:first], *layers[len(layers) - last :]]


def common_ratio(constraints: Constraints, sites: list[Site], amount: int) -> float:
    """The share of its units that each of `sites` loses, or all that may go from it, for `amount` parameters in all."""
    layout, removable = constraints.layout, constraints.removable
    left, size = float(amount), float(sum(layout[site].parameters for site in sites))
    for site in sorted(sites, key=lambda site: removable[site] / layout[site].units):  # first those that fill up first
        if left <= removable[site] / layout[site].units * size:
            return left / size
        left -= removable[site] * layout[site].cost
        size -= layout[site].parameters
    return 1.0


def _carry(
    constraints: Constraints, sites: list[Site], ratio: float, whole: Callable[[Site, float], int]
) -> dict[Site, int]:
    """Units that each site loses at `ratio`, in whole steps, with what is left over carried to the next site.

    `whole` gives the most units that can go from a site without a count being exceeded.
    """
    layout, removed, carried = constraints.layout, {}, 0.0  # in parameters
    for site in sites:
        place = layout[site]
        carried += min(ratio * place.units, constraints.removable[site]) * place.cost
        removed[site] = whole(site, carried / place.cost)
        carried -= removed[site] * place.cost
    return removed
