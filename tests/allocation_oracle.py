"""Published allocations done the slow way: unit by unit, with lists and fractions, as they are described."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from nirvana.layout import KV_GROUP, Layout, Site
from nirvana.saliency.scores import Saliency

Kept = dict[Site, list[int]]


def normalised(saliency: Saliency, power: float) -> Saliency:
    """Each score over the `power`-th power of its site's mean size."""
    scores = {}
    for site, values in saliency.items():
        mean = math.fsum(abs(float(value)) for value in values) / len(values)
        scores[site] = np.array([float(value) / (mean**power or 1) for value in values], np.float32)
    return Saliency(scores, saliency.layout, saliency.criterion)


def whole_budget(layout: Layout, sparsity: float) -> int:
    return math.floor(sparsity * layout.prunable + 1e-6)


def ascending(saliency: Saliency, site: Site) -> list[int]:
    """Units of a site, the worst first."""
    return sorted(range(saliency.layout[site].units), key=lambda unit: (float(saliency[site][unit]), unit))


def may_go(layout: Layout, site: Site, multiple: int, protected: set[Site]) -> int:
    if site in protected:
        return 0
    return max(layout[site].units - (1 if layout[site].kind == KV_GROUP else multiple), 0)


def leave_without(saliency: Saliency, removed: dict[Site, int]) -> Kept:
    return {site: sorted(ascending(saliency, site)[removed[site] :]) for site in saliency.layout}


def neuron_steps(layout: Layout, site: Site, multiple: int, most: int) -> list[int]:
    """How many neurons can go: none, or so many that a multiple stays."""
    units = layout[site].units
    return [0, *(count for count in range(1, most + 1) if (units - count) % multiple == 0)]


def per_layer(saliency: Saliency, sparsity: float, multiple: int, protected: set[Site]) -> Kept | None:
    """One ratio for all sites; what a site's whole steps leave of it goes to the next site of the same kind."""
    layout = saliency.layout
    budget = whole_budget(layout, sparsity)
    most = {site: may_go(layout, site, multiple, protected) for site in layout}
    if budget > sum(most[site] * layout[site].cost for site in layout):
        return None

    def ratio_for(sites: list[Site], amount: int) -> Fraction:
        """Fill up the sites that the ratio would take below their floor, one by one, until none is left."""
        full: set[Site] = set()
        while len(full) < len(sites):
            rest = [site for site in sites if site not in full]
            left = amount - sum(most[site] * layout[site].cost for site in full)
            ratio = Fraction(left, sum(layout[site].units * layout[site].cost for site in rest))
            over = [site for site in rest if ratio * layout[site].units > most[site]]
            if not over:
                return ratio
            full |= set(over)
        return Fraction(1)

    removed: dict[Site, int] = {}

    def carry(sites: list[Site], ratio: Fraction) -> None:
        carried = Fraction(0)
        for site in sites:
            cost = layout[site].cost
            carried += min(ratio * layout[site].units, Fraction(most[site])) * cost
            steps = list(range(most[site] + 1))
            if layout[site].kind != KV_GROUP:
                steps = neuron_steps(layout, site, multiple, most[site])
            removed[site] = max(step for step in steps if step * cost <= carried)
            carried -= removed[site] * cost

    heads = [site for site in layout if layout[site].kind == KV_GROUP]
    mlps = [site for site in layout if layout[site].kind != KV_GROUP]
    carry(heads, ratio_for(list(layout), budget))
    left = budget - sum(removed[site] * layout[site].cost for site in heads)
    left = min(left, sum(most[site] * layout[site].cost for site in mlps))
    carry(mlps, ratio_for(mlps, left))
    return leave_without(saliency, removed)


def joint(saliency: Saliency, sparsity: float, multiple: int, protected: set[Site]) -> Kept | None:
    """All units in one list, worst first, each paying its own weights, until one does not fit into the budget."""
    layout = saliency.layout
    budget = whole_budget(layout, sparsity)
    most = {site: may_go(layout, site, multiple, protected) for site in layout}
    if budget > sum(most[site] * layout[site].cost for site in layout):
        return None
    units = []
    for order, site in enumerate(layout):
        for place, unit in enumerate(ascending(saliency, site)[: most[site]]):
            units.append((float(saliency[site][unit]), order, place, site))
    removed, spent = dict.fromkeys(layout, 0), 0
    for _, _, _, site in sorted(units):
        if spent + layout[site].cost > budget:
            break
        removed[site] += 1
        spent += layout[site].cost
    mlps = [site for site in layout if layout[site].kind != KV_GROUP]
    for site in mlps:
        removed[site] = max(step for step in neuron_steps(layout, site, multiple, removed[site]))
    while True:
        blocks = []
        for order, site in enumerate(mlps):
            later = [step for step in neuron_steps(layout, site, multiple, most[site]) if step > removed[site]]
            if later:
                block = ascending(saliency, site)[removed[site] : later[0]]
                blocks.append((sum(float(saliency[site][unit]) for unit in block), order, site, later[0]))
        if not blocks:
            break
        _, _, site, step = min(blocks, key=lambda entry: entry[:2])
        if sum(removed[s] * layout[s].cost for s in layout) + (step - removed[site]) * layout[site].cost > budget:
            break
        removed[site] = step
    return leave_without(saliency, removed)


def layers(saliency: Saliency, sparsity: float, protected: set[Site]) -> list[tuple[str, int]]:
    """The layers that go, by the mean of their modules' mean scores."""
    layout = saliency.layout
    names = sorted({(site.stack, site.layer) for site in layout})
    sizes, means = {}, {}
    for name in names:
        sites = [site for site in layout if (site.stack, site.layer) == name]
        sizes[name] = sum(layout[site].units * layout[site].cost for site in sites)
        parts = [sum(float(value) for value in saliency[site]) / layout[site].units for site in sites]
        means[name] = sum(parts) / len(parts)
    budget = whole_budget(layout, sparsity)
    gone: list[tuple[str, int]] = []
    for name in sorted(names, key=lambda name: (means[name], name)):
        held = any((site.stack, site.layer) == name for site in protected)
        if not held and sizes[name] <= budget and len(gone) < len(names) - 1:
            gone.append(name)
            budget -= sizes[name]
    return sorted(gone)
