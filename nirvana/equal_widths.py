"""Equal widths: the same number of KV groups and of neurons in every layer, so that a plain checkpoint holds them."""

from __future__ import annotations

from collections.abc import Mapping

from nirvana.errors import PlanError
from nirvana.layout import KV_GROUP, NEURON, Layout, Site


def equal_widths(layout: Layout, *, groups: int, budget: int, multiple_of: int) -> dict[Site, int]:
    """Units that each site loses.

    At most `groups` KV groups go over all layers, the same number staying in each; the rest of the budget goes to the
    MLPs, the same width staying in each: the smallest multiple of `multiple_of` that does not overshoot it. Where
    layers have different widths already, they first come down to the narrowest.

    Args:
        layout: of the model that is pruned.
        groups: KV groups that attention's share of the budget asks for.
        budget: parameters that may go.
        multiple_of: of the MLP widths, unless all stay as they are.

    Raises:
        PlanError: what makes the layers equal takes more than the budget.
    """
    removed = _down_to(layout, KV_GROUP, _kept_groups(layout, groups))
    left = budget - sum(count * layout[site].cost for site, count in removed.items())
    width = next((width for width in widths(layout, multiple_of) if _cost(layout, NEURON, width) <= left), None)
    if left < 0 or width is None:
        raise PlanError(
            "The layers have different widths already, and making them equal removes more than was asked for.",
            "Raise the sparsity, or allocate without equal widths.",
        )
    return removed | _down_to(layout, NEURON, width)


def widths(layout: Layout, multiple_of: int) -> list[int]:
    """The MLP widths that all layers can have, smallest first; [0] for a model without MLPs."""
    units = [layout[site].units for site in layout.pool(NEURON)]
    if not units:
        return [0]
    narrowest = min(units)
    multiples = list(range(multiple_of, narrowest + 1, multiple_of))
    return multiples if multiples and multiples[-1] == narrowest else [*multiples, narrowest]


def mlp_room(layout: Layout, multiple_of: int) -> int:
    """Parameters that go when every MLP comes down to the smallest width."""
    return _cost(layout, NEURON, widths(layout, multiple_of)[0])


def group_steps(layout: Layout) -> list[int]:
    """How many KV groups go over all layers, for each number that may stay in each; fewest first."""
    units = [layout[site].units for site in layout.pool(KV_GROUP)]
    return [sum(units) - kept * len(units) for kept in range(min(units), 0, -1)] if units else [0]


def _kept_groups(layout: Layout, groups: int) -> int:
    units = [layout[site].units for site in layout.pool(KV_GROUP)]
    if not units:
        return 0
    fitting = [kept for kept in range(1, min(units) + 1) if sum(units) - kept * len(units) <= groups]
    return min(fitting, default=min(units))


def _down_to(layout: Layout, kind: str, kept: int) -> dict[Site, int]:
    return {site: layout[site].units - kept for site in layout.pool(kind)}


def _cost(layout: Layout, kind: str, kept: int) -> int:
    return sum(count * layout[site].cost for site, count in _down_to(layout, kind, kept).items())


def equal_widths_notes(layout: Layout, removed: Mapping[Site, int], groups: int) -> tuple[str, ...]:
    """What every layer keeps, and whether it had to differ from the KV groups that gamma asked for, in words."""
    kept = []
    for kind in (KV_GROUP, NEURON):
        pool = layout.pool(kind)
        if pool:
            count = layout[pool[0]].units - removed[pool[0]]
            kept.append(f"{count:,} {kind}{'' if count == 1 else 's'}")
    notes = [f"Every layer keeps {' and '.join(kept)}."]
    gone = sum(removed[site] for site in layout.pool(KV_GROUP))
    if gone != groups:
        notes.append(f"gamma asks for {groups} KV groups; {gone} go, since every layer loses down to the same number.")
    return tuple(notes)
