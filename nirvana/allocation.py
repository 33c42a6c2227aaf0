"""Sparsity allocation: how much each layer's attention and MLP lose (paper: balance between attention and MLP).

gamma ties the two pruning rates, v_mlp = gamma * v_attn. KV groups and neurons are then ranked separately, each
globally over all layers, so that every layer's sparsity emerges from the scores. Pure NumPy.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from nirvana.equal_widths import equal_widths, equal_widths_notes, group_steps, mlp_room
from nirvana.errors import PlanError
from nirvana.layout import KV_GROUP, NEURON, Layout, Site
from nirvana.plan import PruningPlan
from nirvana.saliency.scores import Saliency

Protected = Iterable[int | Site]


class Rates(NamedTuple):
    """Shares of the attention and of the MLP parameters to remove."""

    attention: float
    mlp: float


def allocate(
    saliency: Saliency,
    *,
    sparsity: float,
    gamma: float = 3.36,
    multiple_of: int = 8,
    protected: Protected = (),
    uniform: bool = False,
) -> PruningPlan:
    """Choose the units to keep so that `sparsity` of the prunable parameters go.

    floor(v_attn * groups) KV groups go, the lowest-scored over all layers. The rest of the budget goes to the MLP:
    the lowest-scored neurons over all layers, each layer's kept width rounded up to `multiple_of`, then whole blocks
    of that size, cheapest summed score first, while the budget is not overshot. The achieved sparsity misses the
    request by less than one such block. Every layer keeps its best KV group and its `multiple_of` best neurons.

    Args:
        saliency: scores of every unit, with their costs.
        sparsity: fraction of attention and MLP parameters to remove, in (0, 1).
        gamma: v_mlp / v_attn, in [0, inf]: 0 prunes attention only, inf the MLP only.
        multiple_of: MLP widths are kept at multiples of this.
        protected: layers (original indices, in every stack) or sites that keep all units. They count in the target.
        uniform: keep the same number of KV groups and of neurons in every layer (see `equal_widths`), the best-scored
            of each; the achieved sparsity then misses the request by less than one block in every layer.

    Raises:
        PlanError: a value is invalid, or the sparsity is out of reach; the reachable maximum is named.
    """
    layout = saliency.layout
    guarded = protected_sites(layout, protected)
    limit = reachable_sparsity(layout, gamma=gamma, multiple_of=multiple_of, protected=guarded, uniform=uniform)
    _check_sparsity(sparsity)
    budget = math.floor(sparsity * layout.prunable + 1e-6)
    rates = pruning_rates(layout, sparsity=sparsity, gamma=gamma)
    wanted = _groups_wanted(layout, rates)
    removable = _removable(layout, guarded, multiple_of)
    if uniform:
        removed = equal_widths(layout, groups=wanted, budget=budget, multiple_of=multiple_of)
        taken = sum(removed[site] * layout[site].cost for site in layout.pool(KV_GROUP))
        room = mlp_room(layout, multiple_of)
    else:
        removed = _cut_ranking(saliency, layout.pool(KV_GROUP), removable, wanted)
        taken = _parameters(layout, removed)
        room = sum(removable[site] * layout[site].cost for site in layout.pool(NEURON))
    if max(rates) > 1 + 1e-9 or budget - taken > room:
        raise PlanError(
            f"A sparsity of {sparsity:.4g} is out of reach with gamma {gamma:g}: at most {limit:.4f} can be removed.",
            "Lower the sparsity, change gamma, or protect fewer layers.",
        )
    if not uniform:
        removed |= _remove_neurons(saliency, removable, budget - taken, multiple_of)
    return PruningPlan(
        kept=_kept_units(saliency, removed),
        layout=layout,
        requested=float(sparsity),
        gamma=float(gamma),
        multiple_of=multiple_of,
        protected=guarded,
        notes=equal_widths_notes(layout, removed, wanted)
        if uniform
        else _notes(layout, removed, wanted, budget, gamma, guarded),
    )


def pruning_rates(layout: Layout, *, sparsity: float, gamma: float) -> Rates:
    """v_attn = s (A + M) / (A + gamma M) and v_mlp = gamma v_attn, for A attention and M MLP parameters.

    A rate above 1 means that gamma asks for more than there is.

    Raises:
        PlanError: gamma is negative or NaN, or names a pool that the model does not have.
    """
    if not gamma >= 0:
        raise PlanError(f"gamma must be 0 or more, not {gamma}.", "Use 1 for equal rates, inf for the MLP only.")
    attention, mlp = layout.pool_parameters(KV_GROUP), layout.pool_parameters(NEURON)
    total = sparsity * (attention + mlp)
    if math.isinf(gamma):
        if not mlp:
            raise PlanError("gamma inf prunes the MLP only, and this model has none.", "Lower gamma.")
        return Rates(0.0, total / mlp)
    weight = attention + gamma * mlp
    if not weight:
        raise PlanError("gamma 0 prunes attention only, and this model has none.", "Raise gamma.")
    return Rates(total / weight, gamma * total / weight)


def reachable_sparsity(
    layout: Layout,
    *,
    gamma: float = 3.36,
    multiple_of: int = 8,
    protected: Protected = (),
    uniform: bool = False,
) -> float:
    """The highest sparsity that `allocate` accepts with this gamma, in [0, 1], floors and protected layers counted.

    Raises:
        PlanError: gamma, multiple_of or protected is invalid, or layers are protected that should have equal widths.
    """
    _check_multiple(multiple_of)
    guarded = protected_sites(layout, protected)
    if uniform and guarded:
        raise PlanError(
            "A protected layer keeps all its units, and layers of equal widths would keep theirs too.",
            "Protect no layers, or allocate without equal widths.",
        )
    removable = _removable(layout, guarded, multiple_of)
    unit = pruning_rates(layout, sparsity=1.0, gamma=gamma)
    by_rates = 1 / max(unit)
    room = sum(removable[site] * layout[site].cost for site in layout.pool(NEURON))
    if uniform:
        room = mlp_room(layout, multiple_of)
    pool = layout.pool(KV_GROUP)
    groups = sum(layout[site].units for site in pool)
    cost = layout[pool[0]].cost if pool else 0
    best = 0.0
    steps = group_steps(layout) if uniform else range(sum(removable[site] for site in pool) + 1)
    for step, count in enumerate(steps):
        # With `count` groups gone the sparsity lies where floor(v_attn * groups) asks for at least that many.
        at_least = count / (groups * unit.attention) if step else 0.0
        reached = min((room + count * cost) / layout.prunable, by_rates)
        if reached >= at_least:
            best = max(best, reached)
        if not unit.attention:
            break
    return min(math.floor(best * 1e9) / 1e9, 1.0)


def protected_sites(layout: Layout, protected: Protected) -> tuple[Site, ...]:
    """Sites named by `protected`: layer indices (in every stack) and sites.

    Raises:
        PlanError: a layer or site is not in the model.
    """
    wanted = list(protected)
    layers = {site.layer for site in layout}
    for item in wanted:
        if (item not in layout.sites) if isinstance(item, tuple) else (item not in layers):
            raise PlanError(f"There is no layer {item} to protect.", f"Layers are {min(layers)} to {max(layers)}.")
    return tuple(site for site in layout if site in wanted or site.layer in wanted)


def _check_sparsity(sparsity: float) -> None:
    if not 0 < sparsity < 1:
        raise PlanError(f"Sparsity must lie between 0 and 1, not {sparsity}.", "Use 0.2 to remove 20 %.")


def _check_multiple(multiple_of: int) -> None:
    if isinstance(multiple_of, bool) or not isinstance(multiple_of, int | np.integer) or multiple_of < 1:
        raise PlanError(f"multiple_of must be a whole number from 1, not {multiple_of}.", "Use 8, or 1 for none.")


def _groups_wanted(layout: Layout, rates: Rates) -> int:
    groups = sum(layout[site].units for site in layout.pool(KV_GROUP))
    return math.floor(rates.attention * groups + 1e-9)  # 0.2 * 90 must give 18 whatever the rounding


def _removable(layout: Layout, guarded: tuple[Site, ...], multiple_of: int) -> dict[Site, int]:
    """Units that may go at each site, the floors left standing."""
    floors = {KV_GROUP: 1, NEURON: multiple_of}
    return {site: 0 if site in guarded else max(0, place.units - floors[place.kind]) for site, place in layout.items()}


def _cut_ranking(saliency: Saliency, sites: list[Site], removable: Mapping[Site, int], count: int) -> dict[Site, int]:
    """How many units each site loses when the `count` lowest-ranked removable ones go (all of them, if fewer)."""
    ranks = {site: saliency.sorted_ranks[site][: removable[site]] for site in sites}

    def below(cut: int) -> dict[Site, int]:
        return {site: int(np.searchsorted(values, cut)) for site, values in ranks.items()}

    low, high = 0, sum(saliency.layout[site].units for site in sites)
    while low < high:  # the lowest cut with `count` removable units below it
        middle = (low + high) // 2
        if sum(below(middle).values()) < count:
            low = middle + 1
        else:
            high = middle
    return below(low)


def _remove_neurons(
    saliency: Saliency, removable: Mapping[Site, int], budget: int, multiple_of: int
) -> dict[Site, int]:
    """Neurons that each MLP loses for at most `budget` parameters, widths kept at multiples."""
    layout = saliency.layout
    sites = layout.pool(NEURON)
    if not sites:
        return {}
    removed = _cut_ranking(saliency, sites, removable, budget // layout[sites[0]].cost)
    for site in sites:
        units = layout[site].units
        removed[site] = units - min(_round_up(units - removed[site], multiple_of), units)
    left = budget - _parameters(layout, removed)

    def block(site: Site) -> int:
        """Neurons between the kept width and the next lower multiple."""
        kept = layout[site].units - removed[site]
        return kept - _round_up(kept - multiple_of, multiple_of)

    def entry(order: int, site: Site) -> tuple[float, int, Site]:
        start = removed[site]
        summed = saliency.sorted_scores[site][start : start + block(site)].sum(dtype=np.float64)
        return float(summed), order, site

    heap = [entry(order, site) for order, site in enumerate(sites) if removed[site] < removable[site]]
    heapq.heapify(heap)
    while heap:
        _, order, site = heapq.heappop(heap)
        size = block(site)
        if size * layout[site].cost > left:
            break
        removed[site] += size
        left -= size * layout[site].cost
        if removed[site] < removable[site]:
            heapq.heappush(heap, entry(order, site))
    return removed


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _parameters(layout: Layout, removed: Mapping[Site, int]) -> int:
    return sum(count * layout[site].cost for site, count in removed.items())


def _kept_units(saliency: Saliency, removed: Mapping[Site, int]) -> dict[Site, np.ndarray]:
    kept = {}
    for site in saliency.layout:
        count = removed.get(site, 0)
        cut = saliency.sorted_ranks[site][count]  # the lowest-ranked unit that stays
        kept[site] = np.flatnonzero(saliency.ranks[site] >= cut)
    return kept


def _notes(
    layout: Layout,
    removed: Mapping[Site, int],
    wanted: int,
    budget: int,
    gamma: float,
    guarded: tuple[Site, ...],
) -> tuple[str, ...]:
    notes = []
    pool = layout.pool(KV_GROUP)
    gone = sum(removed[site] for site in pool)
    if gone < wanted:
        share = (wanted - gone) * layout[pool[0]].cost / budget
        why = (
            "every layer has a single KV group"
            if all(layout[site].units == 1 for site in pool)
            else "every unprotected layer keeps its best one"
        )
        notes.append(
            f"gamma asks for {wanted} KV groups, {gone} can go because {why}; "
            f"the rest, {share:.1%} of the budget, is taken from the MLP."
        )
    elif gamma == 0 and any(removed[site] for site in layout.pool(NEURON)):
        notes.append("What is left of the budget after whole KV groups is taken from the MLP.")
    if guarded:
        layers = sorted({site.layer for site in guarded})
        notes.append(f"Protected: layer {', '.join(map(str, layers))}. They count in the target.")
    if not any(removed.values()):
        notes.append("The budget is smaller than the smallest step: nothing is removed.")
    return tuple(notes)
