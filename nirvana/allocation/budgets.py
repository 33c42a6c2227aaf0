"""Budgets: the unit of which a sparsity is a share. Parameters, bytes, or measured time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nirvana.costs import BYTES, SECONDS, CostTable
from nirvana.errors import PlanError
from nirvana.layout import Layout, Site

BUDGETS = ("parameters", "bytes", "latency")
UNITS = {"bytes": BYTES, "latency": SECONDS}
HOW = {"bytes": "Use nirvana.byte_costs(lm).", "latency": "Measure one: nirvana.measure_costs(lm, phase=...)."}


@dataclass(frozen=True)
class Budget:
    """Parameters count by the layout, others by `costs`. Without costs, bytes are those of one dtype, and so count like
    parameters.
    """

    name: str = "parameters"
    costs: CostTable | None = None

    def saved(self, layout: Layout, site: Site, removed: Any) -> Any:
        """Amount by which `removed` units reduce a site's, a number or an array; whole for parameters."""
        if self.costs is None:
            return removed * layout[site].cost
        units = layout[site].units
        saved = self.costs.cost(site, units) - self.costs.cost(site, units - removed)
        return float(saved) if saved.ndim == 0 else saved

    def total(self, layout: Layout) -> float:
        """Amount of all sites, the denominator of a sparsity."""
        if self.costs is None:
            return layout.prunable
        return self.costs.prunable({site: place.units for site, place in layout.items()})


PARAMETERS = Budget()


def read_budget(name: str, costs: CostTable | None, layout: Layout) -> Budget:
    """The budget of that name for a model.

    Raises:
        PlanError: it is unknown, or its cost table is missing, of another unit or of another model.
    """
    if name not in BUDGETS:
        raise PlanError(f"There is no budget {name!r}.", f"Use one of {', '.join(BUDGETS)}.")
    if costs is not None:
        costs.check(layout)
    if name == "parameters" or (name == "bytes" and costs is None):
        return Budget(name)
    how = HOW[name]
    if costs is None:
        raise PlanError("A budget in time needs a cost table.", how)
    if costs.unit != UNITS[name]:
        raise PlanError(f"A budget in {UNITS[name]} cannot use a cost table in {costs.unit}.", how)
    budget = Budget(name, costs)
    if not budget.total(layout) > 0:
        raise PlanError("The prunable modules have no cost in this table.", how)
    return budget


def spent(budget: Budget, layout: Layout, removed: Mapping[Site, int]) -> float:
    """Amount of these units."""
    total: float = sum(budget.saved(layout, site, count) for site, count in removed.items())
    return total
