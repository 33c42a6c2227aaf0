"""Equal widths: the same number of KV groups and of neurons in every layer, as a plain checkpoint needs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import numpy as np

from nirvana.allocation.budgets import spent
from nirvana.allocation.constraints import Chosen, Constraints, general_notes, lowest_go, out_of_reach
from nirvana.allocation.shared import groups_wanted, highest, pruning_rates
from nirvana.errors import PlanError
from nirvana.layout import KV_GROUP, NEURON, Layout, Site
from nirvana.saliency.scores import Saliency


def choose(saliency: Saliency, constraints: Constraints, sparsity: float) -> Chosen:
    """Keep the same number of KV groups and the same width in every layer, the best-scored units of each.

    At most as many KV groups are removed as attention's rate gives over all layers; the rest of the budget is neurons,
    and the width is the smallest multiple of `multiple_of` within it. Layers of different widths are first reduced to
    the narrowest. Where the plain architecture needs the same units in several layers (T5's heads, which share one
    position bias), units are ranked by their scores summed over these layers: a score is a sum over weights, and such
    units are removed together.

    Raises:
        PlanError: the sparsity is out of reach, layers are protected, or making the layers equal exceeds the budget.
    """
    layout = constraints.layout
    budget = constraints.parameter_budget(sparsity)
    rates = pruning_rates(layout, sparsity=sparsity, gamma=constraints.gamma)
    limit = reachable(constraints)
    wanted = groups_wanted(layout, rates)
    groups = _kept_groups(layout, wanted, group_counts(layout))
    left = budget - _cost(constraints, KV_GROUP, groups)
    if max(rates) > 1 + 1e-9 or left > _mlp_room(constraints):
        raise out_of_reach(sparsity, limit, f" with gamma {constraints.gamma:g}")
    removed = spend(constraints, budget, groups)
    if removed is None:
        raise unequal_before()
    kept = keep_alike(saliency, removed)
    return Chosen(kept, (*_notes(constraints, removed, wanted), *general_notes(constraints, removed)))


def spend(constraints: Constraints, budget: float, groups: int) -> dict[Site, int] | None:
    """Units removed at each site when every layer keeps `groups` KV groups and the MLPs take the rest of the budget.

    None where that exceeds their units, or equal widths exceed the budget.
    """
    layout = constraints.layout
    left = budget + constraints.slack - _cost(constraints, KV_GROUP, groups)
    possible = widths(constraints)
    narrowest = bisect_left(possible, -left, key=lambda width: -_cost(constraints, NEURON, width))  # a wider costs less
    if left < 0 or narrowest == len(possible) or left - 2 * constraints.slack > _mlp_room(constraints):
        return None
    return _down_to(layout, KV_GROUP, groups) | _down_to(layout, NEURON, possible[narrowest])


def keep_alike(saliency: Saliency, removed: Mapping[Site, int]) -> dict[Site, np.ndarray]:
    """Site -> the best-scored units; the same ones at sites that the plain form requires to be equal."""
    kept = lowest_go(saliency, removed)
    for sites in same_units(saliency.layout):
        kept |= _best_together(saliency, sites, len(kept[sites[0]]))
    return kept


def unequal_before() -> PlanError:
    """The error where equal widths alone exceed the budget."""
    return PlanError(
        "The layers have different widths already, and making them equal removes more than the sparsity.",
        "Raise the sparsity, or allocate without equal widths.",
    )


def reachable(constraints: Constraints) -> float:
    """The highest sparsity that `choose` accepts.

    Raises:
        PlanError: layers are protected.
    """
    check_unprotected(constraints)
    layout = constraints.layout
    units = [layout[site].units for site in layout.pool(KV_GROUP)]
    steps = [sum(units) - kept * len(units) for kept in reversed(group_counts(layout))] if units else [0]
    return highest(constraints, steps, _mlp_room(constraints))


def all_room(constraints: Constraints) -> float:
    """The highest sparsity with equal widths, whatever the balance of attention and MLP.

    Raises:
        PlanError: layers are protected.
    """
    return room(constraints) / constraints.total


def room(constraints: Constraints) -> float:
    """Removable amount in all with equal widths.

    Raises:
        PlanError: layers are protected.
    """
    check_unprotected(constraints)
    counts = group_counts(constraints.layout)
    return (_cost(constraints, KV_GROUP, counts[0]) if counts else 0) + _mlp_room(constraints)


def check_unprotected(constraints: Constraints) -> None:
    """Check that no layer is protected.

    Raises:
        PlanError: some are.
    """
    if constraints.protected:
        raise PlanError(
            "A protected layer keeps all its units, so with equal widths every layer would.",
            "Protect no layers, or allocate without equal widths.",
        )


def group_counts(layout: Layout) -> list[int]:
    """Numbers of KV groups that every layer can have, ascending: those of the plain form, and the narrowest layer's."""
    narrowest = min((layout[site].units for site in layout.pool(KV_GROUP)), default=0)
    whole = layout.plain.groups_divide
    return [count for count in range(1, narrowest + 1) if count == narrowest or not whole or whole % count == 0]


def widths(constraints: Constraints) -> list[int]:
    """The MLP widths that all layers can have, smallest first; [0] for a model without MLPs."""
    layout, multiple = constraints.layout, constraints.multiple_of
    units = [layout[site].units for site in layout.pool(NEURON)]
    if not units:
        return [0]
    narrowest = min(units)
    multiples = list(range(multiple, narrowest + 1, multiple))
    return multiples if multiples and multiples[-1] == narrowest else [*multiples, narrowest]


def same_units(layout: Layout) -> list[list[Site]]:
    """Sites that keep the same units in a plain checkpoint, except sites that earlier pruning left with other sizes."""
    found = [[site for site in layout if (site.stack, site.module) == together] for together in layout.plain.same_units]
    return [sites for sites in found if sites and len({layout[site].units for site in sites}) == 1]


def _best_together(saliency: Saliency, sites: list[Site], count: int) -> dict[Site, np.ndarray]:
    """The `count` units with the highest summed scores (ties: the higher index), at each of `sites`."""
    summed = np.stack([saliency[site] for site in sites]).sum(axis=0, dtype=np.float64)
    best = np.sort(np.argsort(summed, kind="stable")[len(summed) - count :])
    return dict.fromkeys(sites, best)


def _mlp_room(constraints: Constraints) -> float:
    """Amount removed when every MLP has the smallest width."""
    return _cost(constraints, NEURON, widths(constraints)[0])


def _kept_groups(layout: Layout, groups: int, counts: list[int]) -> int:
    """The fewest KV groups of `counts` that every layer can keep when at most `groups` are removed in all."""
    units = [layout[site].units for site in layout.pool(KV_GROUP)]
    fitting = [kept for kept in counts if sum(units) - kept * len(units) <= groups]
    return min(fitting, default=min(units, default=0))


def _down_to(layout: Layout, kind: str, kept: int) -> dict[Site, int]:
    return {site: layout[site].units - kept for site in layout.pool(kind)}


def _cost(constraints: Constraints, kind: str, kept: int) -> float:
    return spent(constraints.budget, constraints.layout, _down_to(constraints.layout, kind, kept))


def _notes(constraints: Constraints, removed: Mapping[Site, int], wanted: int) -> tuple[str, ...]:
    """Units kept in every layer, and a note where they differ from gamma's KV groups."""
    layout, kept = constraints.layout, []
    for kind in (KV_GROUP, NEURON):
        pool = layout.pool(kind)
        if pool:
            count = layout[pool[0]].units - removed[pool[0]]
            kept.append(f"{count:,} {kind}{'' if count == 1 else 's'}")
    notes = [f"Every layer keeps {' and '.join(kept)}."]
    pool = layout.pool(KV_GROUP)
    gone = sum(removed[site] for site in pool)
    if gone != wanted:
        notes.append(
            f"gamma {constraints.gamma:g} asks for {wanted} KV groups; {gone} are removed, the same in every layer."
        )
    narrowest = min((layout[site].units for site in pool), default=0)
    freely = _kept_groups(layout, wanted, list(range(1, narrowest + 1)))
    if pool and layout[pool[0]].units - removed[pool[0]] != freely:
        notes.append(
            f"A plain {layout.architecture} cannot have {freely} KV groups in a layer: "
            "its number of heads has to divide the hidden size."
        )
    for stack, module in layout.plain.same_units:
        aligned = any((sites[0].stack, sites[0].module) == (stack, module) for sites in same_units(layout))
        notes.append(
            f"The {stack}'s {module} layers keep the same heads, those with the highest summed scores."
            if aligned
            else f"The {stack}'s {module} layers lost different heads before, so a plain checkpoint must be wider."
        )
    return tuple(notes)
