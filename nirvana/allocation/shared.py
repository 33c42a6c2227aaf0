"""The shared allocation (paper: balance between attention and MLP): gamma, and two rankings over all layers.

gamma ties the two pruning rates, v_mlp = gamma * v_attn. KV groups and neurons are then ranked separately over all
layers, so the scores determine each layer's sparsity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from nirvana.allocation.blocks import spend_in_blocks
from nirvana.allocation.constraints import Chosen, Constraints, general_notes, lowest_go, out_of_reach, parameters
from nirvana.errors import PlanError
from nirvana.layout import KV_GROUP, NEURON, Layout, Site
from nirvana.saliency.scores import Saliency


class Rates(NamedTuple):
    """Shares of the attention and of the MLP parameters to remove."""

    attention: float
    mlp: float


def pruning_rates(layout: Layout, *, sparsity: float, gamma: float) -> Rates:
    """v_attn = s (A + M) / (A + gamma M) and v_mlp = gamma v_attn, for A attention and M MLP parameters.

    A rate above 1 means that gamma cannot be satisfied.

    Raises:
        PlanError: gamma is negative or NaN, or prunes only a kind of unit that the model lacks.
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


def choose(saliency: Saliency, constraints: Constraints, sparsity: float) -> Chosen:
    """Remove floor(v_attn * groups) KV groups, the lowest-scored over all layers; the rest of the budget is neurons.

    Raises:
        PlanError: the sparsity is out of reach; the reachable maximum is named.
    """
    layout, removable = constraints.layout, constraints.removable
    budget = constraints.parameter_budget(sparsity)
    rates = pruning_rates(layout, sparsity=sparsity, gamma=constraints.gamma)
    wanted = groups_wanted(layout, rates)
    removed = _cut_ranking(saliency, layout.pool(KV_GROUP), removable, wanted)
    left = budget - parameters(layout, removed)
    mlps = layout.pool(NEURON)
    if max(rates) > 1 + 1e-9 or left > sum(removable[site] * layout[site].cost for site in mlps):
        raise out_of_reach(sparsity, reachable(constraints), f" with gamma {constraints.gamma:g}")
    if mlps:
        neurons = _cut_ranking(saliency, mlps, removable, left // layout[mlps[0]].cost)
        removed |= spend_in_blocks(saliency, constraints, neurons, left)
    notes = _notes(constraints, removed, wanted, budget)
    return Chosen(lowest_go(saliency, removed), notes)


def reachable(constraints: Constraints) -> float:
    """The highest sparsity that `choose` accepts."""
    layout, removable = constraints.layout, constraints.removable
    room = sum(removable[site] * layout[site].cost for site in layout.pool(NEURON))
    return highest(constraints, range(sum(removable[site] for site in layout.pool(KV_GROUP)) + 1), room)


def highest(constraints: Constraints, group_steps: Iterable[int], mlp_room: float) -> float:
    """The highest sparsity at which the MLPs can cover the budget that the KV groups leave.

    Args:
        group_steps: removable numbers of KV groups over all layers, ascending.
        mlp_room: parameters that the MLPs can lose.
    """
    layout = constraints.layout
    unit = pruning_rates(layout, sparsity=1.0, gamma=constraints.gamma)
    pool = layout.pool(KV_GROUP)
    groups = sum(layout[site].units for site in pool)
    cost = layout[pool[0]].cost if pool else 0
    best = 0.0
    for step, count in enumerate(group_steps):
        # `count` groups are removed where floor(v_attn * groups) is at least `count`.
        at_least = count / (groups * unit.attention) if step else 0.0
        reached = min((mlp_room + count * cost) / layout.prunable, 1 / max(unit))
        if reached >= at_least:
            best = max(best, reached)
        if not unit.attention:
            break
    return best


def groups_wanted(layout: Layout, rates: Rates) -> int:
    """KV groups to remove over all layers at attention's rate."""
    groups = sum(layout[site].units for site in layout.pool(KV_GROUP))
    return math.floor(rates.attention * groups + 1e-9)  # 0.2 * 90 must give 18 whatever the rounding


class GammasAlike(NamedTuple):
    """The `groups` that gamma asks for, and the gammas above `lowest`, up to `highest`, that ask for as many."""

    groups: int
    lowest: float
    highest: float


def gammas_alike(layout: Layout, *, sparsity: float, gamma: float) -> GammasAlike:
    """Which gammas give the plan of `gamma`: whole KV groups are removed, so gamma acts in jumps.

    Raises:
        PlanError: as `pruning_rates`.
    """
    attention, mlp = layout.pool_parameters(KV_GROUP), layout.pool_parameters(NEURON)
    wanted = groups_wanted(layout, pruning_rates(layout, sparsity=sparsity, gamma=gamma))
    if not attention or not mlp:
        return GammasAlike(wanted, 0.0, math.inf)
    # A rate of k of all groups belongs to gamma = (s (A + M) groups / k - A) / M.
    scale = sparsity * (attention + mlp) * sum(layout[site].units for site in layout.pool(KV_GROUP))
    highest = (scale / wanted - attention) / mlp if wanted else math.inf
    return GammasAlike(wanted, max((scale / (wanted + 1) - attention) / mlp, 0.0), max(highest, 0.0))


def _cut_ranking(saliency: Saliency, sites: list[Site], removable: Mapping[Site, int], count: int) -> dict[Site, int]:
    """Units that each site loses with the `count` lowest-ranked removable ones (all, if fewer)."""
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


def _notes(constraints: Constraints, removed: Mapping[Site, int], wanted: int, budget: int) -> tuple[str, ...]:
    layout, notes = constraints.layout, []
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
            f"gamma asks for {wanted} KV groups, but only {gone} can be removed because {why}; "
            f"the rest, {share:.1%} of the budget, is taken from the MLP."
        )
    elif constraints.gamma == 0 and any(removed[site] for site in layout.pool(NEURON)):
        notes.append("The budget that whole KV groups leave is taken from the MLP.")
    return (*notes, *general_notes(constraints, removed))
