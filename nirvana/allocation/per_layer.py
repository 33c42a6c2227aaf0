"""One ratio in every layer, units ranked within each site (as published for magnitude, Wanda-sp and LLM-Pruner)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nirvana.allocation.constraints import Chosen, Constraints, general_notes, lowest_go, parameters
from nirvana.layout import KV_GROUP, NEURON, Layout, Site
from nirvana.saliency.scores import Saliency

# LLM-Pruner (arXiv 2305.11627) prunes layers 4 to 29 of 32.
FIRST, LAST, OF = 4, 2, 32


def choose(saliency: Saliency, constraints: Constraints, sparsity: float) -> Chosen:
    """Remove the lowest-scored units of each site, attention and MLP at the same ratio.

    Sites lose whole steps: a KV group, or the neurons between two multiples of the width. A site's remainder is carried
    to the next layer, so the ratio holds over the layers where it cannot hold in each: 20 % of 3 KV groups is one in
    three layers of five. Protected layers and floors raise the ratio of the rest. The budget that whole KV groups leave
    is taken from the widths.

    Raises:
        PlanError: the sparsity is out of reach; the reachable maximum is named.
    """
    layout, removable = constraints.layout, constraints.removable
    budget = int(constraints.affordable(sparsity))
    ratio = common_ratio(constraints, list(layout), budget)
    heads, mlps = layout.pool(KV_GROUP), layout.pool(NEURON)
    removed = _carry(constraints, heads, ratio, lambda site, count: min(int(count + 1e-9), removable[site]))
    room = sum(removable[site] * layout[site].cost for site in mlps)
    left = min(budget - parameters(layout, removed), room)
    removed |= _carry(constraints, mlps, common_ratio(constraints, mlps, left), constraints.most_neurons)
    notes = [f"One ratio in every layer: {ratio:.2%}, units ranked within each."]
    if any(ratio * layout[site].units % 1 > 1e-6 for site in heads if removable[site]):
        notes.append("The ratio is not a whole number of KV groups: each layer's remainder is carried to the next.")
    return Chosen(lowest_go(saliency, removed), (*notes, *general_notes(constraints, removed)))


def equal_rates(constraints: Constraints) -> Constraints:
    """The same constraints with this rule's gamma."""
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
    """The share of its units that each of `sites` loses, at most its removable ones, for `amount` parameters in all."""
    layout, removable = constraints.layout, constraints.removable
    left, size = float(amount), float(sum(layout[site].parameters for site in sites))
    for site in sorted(sites, key=lambda site: removable[site] / layout[site].units):  # least room first
        if left <= removable[site] / layout[site].units * size:
            return left / size
        left -= removable[site] * layout[site].cost
        size -= layout[site].parameters
    return 1.0


def _carry(
    constraints: Constraints, sites: list[Site], ratio: float, whole: Callable[[Site, float], int]
) -> dict[Site, int]:
    """Units that each site loses at `ratio`, in whole steps, with the remainder carried to the next site.

    `whole` gives the most units that a site can lose within a count.
    """
    layout, removed, carried = constraints.layout, {}, 0.0  # in parameters
    for site in sites:
        place = layout[site]
        carried += min(ratio * place.units, constraints.removable[site]) * place.cost
        removed[site] = whole(site, carried / place.cost)
        carried -= removed[site] * place.cost
    return removed
