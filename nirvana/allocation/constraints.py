"""Constraints of every allocation rule: floors, protected layers, width multiples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from nirvana.allocation.budgets import PARAMETERS, Budget, spent
from nirvana.errors import PlanError
from nirvana.layout import KV_GROUP, NEURON, Layout, Site
from nirvana.loss_curves import Sensitivity
from nirvana.saliency.scores import Saliency

Protected = Iterable[int | Site]


@dataclass(frozen=True)
class Constraints:
    """Constraints of one allocation. A site keeps at least one KV group or `multiple_of` neurons.

    A protected site keeps all its units. `curves` are the loss curves of the measured allocation. `budget` is the unit
    in which the units to remove are counted.
    """

    layout: Layout
    gamma: float
    multiple_of: int
    protected: tuple[Site, ...]
    curves: Sensitivity | None = None
    budget: Budget = PARAMETERS

    @cached_property
    def removable(self) -> dict[Site, int]:
        """Removable units at each site, floors excluded."""
        floors = {KV_GROUP: 1, NEURON: self.multiple_of}
        return {
            site: 0 if site in self.protected else max(0, place.units - floors[place.kind])
            for site, place in self.layout.items()
        }

    @cached_property
    def total(self) -> float:
        """The budget's amount of all sites, of which a sparsity is a share."""
        return self.budget.total(self.layout)

    @property
    def slack(self) -> float:
        """Rounding error of a budget that is not counted in whole numbers."""
        return 0 if self.budget.costs is None else 1e-9 * self.total

    @property
    def room(self) -> float:
        """Removable amount in all."""
        return spent(self.budget, self.layout, self.removable)

    def saved(self, site: Site, removed: int) -> float:
        """Amount by which `removed` units reduce a site's."""
        return float(self.budget.saved(self.layout, site, removed)) if self.slack else removed * self.layout[site].cost

    def parameter_budget(self, sparsity: float) -> int:
        """Parameters to remove for a sparsity, of rules that count nothing else."""
        return math.floor(sparsity * self.layout.prunable + 1e-6)

    def amount(self, sparsity: float) -> float:
        """Amount to remove for a sparsity."""
        return sparsity * self.total if self.slack else self.parameter_budget(sparsity)

    def affordable(self, sparsity: float) -> float:
        """As `amount`, for rules that can spend all the room.

        Raises:
            PlanError: the sparsity is out of reach; the reachable maximum is named.
        """
        amount = self.amount(sparsity)
        if amount > self.room + self.slack:
            raise out_of_reach(sparsity, all_room(self))
        return amount

    def most_neurons(self, site: Site, count: float) -> int:
        """The most neurons that can be removed within `count`, with the kept width a multiple."""
        units = self.layout[site].units
        gone = min(math.floor(count + 1e-9), self.removable[site])
        return units - min(round_up(units - gone, self.multiple_of), units)

    def block(self, site: Site, removed: int) -> int:
        """Neurons between the present width and the next lower multiple."""
        kept = self.layout[site].units - removed
        return kept - round_up(kept - self.multiple_of, self.multiple_of)


class Chosen(NamedTuple):
    """Result of a rule: the kept units at each site of the kept layers."""

    kept: dict[Site, np.ndarray]
    notes: tuple[str, ...] = ()
    removed_layers: tuple[tuple[str, int], ...] = ()


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


def all_room(constraints: Constraints) -> float:
    """The highest sparsity of a rule that can spend all the room."""
    return constraints.room / constraints.total


def out_of_reach(sparsity: float, limit: float, why: str = "") -> PlanError:
    """The error for a sparsity above `limit`; `why` names the constraint, e.g. " with gamma 3"."""
    return PlanError(
        f"A sparsity of {sparsity:.4g} is out of reach{why}: at most {limit:.4f} can be removed.",
        "Lower the sparsity, change gamma, or protect fewer layers." if why else "Lower it, or protect fewer layers.",
    )


def lowest_go(saliency: Saliency, removed: Mapping[Site, int]) -> dict[Site, np.ndarray]:
    """Site -> the kept units without its `removed` lowest-scored ones, ascending."""
    kept = {}
    for site in saliency.layout:
        cut = saliency.sorted_ranks[site][removed.get(site, 0)]  # the lowest-ranked kept unit
        kept[site] = np.flatnonzero(saliency.ranks[site] >= cut)
    return kept


def parameters(layout: Layout, removed: Mapping[Site, int]) -> int:
    """Parameters of these units."""
    return sum(count * layout[site].cost for site, count in removed.items())


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def general_notes(constraints: Constraints, removed: Mapping[Site, int]) -> list[str]:
    """Notes of every rule: protected layers, and a budget below the smallest step."""
    notes = []
    if constraints.protected:
        layers = sorted({site.layer for site in constraints.protected})
        notes.append(f"Protected: layer {', '.join(map(str, layers))}. They count in the target.")
    if not any(removed.values()):
        notes.append("The budget is smaller than the smallest step: nothing is removed.")
    return notes
