"""Rules that count parameters, within a budget in bytes or measured time.

Such a rule defines a plan for every share of the parameters. The largest share whose plan stays within the budget is
found by bisection, so the rule keeps its order of removal, and gamma its meaning.
"""

from __future__ import annotations

import math
from dataclasses import replace

from nirvana.allocation.budgets import PARAMETERS, spent
from nirvana.allocation.constraints import Chosen, Constraints, out_of_reach
from nirvana.allocation.rules import Rule
from nirvana.errors import PlanError
from nirvana.layout import Site
from nirvana.saliency.scores import Saliency

STEPS = 40  # of the bisection, at most


def choose(rule: Rule, saliency: Saliency, constraints: Constraints, sparsity: float) -> Chosen:
    """The plan of `rule` for the largest share of the parameters within the budget.

    Where the rule has a way to `fill`, the rest of the budget is spent on the lowest-scored neurons.

    Raises:
        PlanError: the sparsity is out of reach; the reachable maximum is named.
    """
    target, counted = constraints.amount(sparsity), replace(constraints, budget=PARAMETERS)
    low, high = 0.0, highest_share(rule, counted)
    most = rule.choose(saliency, counted, high)
    reached = _spent(constraints, most)
    if target > reached + constraints.slack:
        why = f" with gamma {constraints.gamma:g}" if rule.uses_gamma else ""
        raise out_of_reach(sparsity, reached / constraints.total, why)
    smallest = min((place.cost for place in constraints.layout.values()), default=1) * constraints.multiple_of
    best: tuple[float, Chosen] | None = None
    refusal: PlanError | None = None
    for _ in range(STEPS):
        if (high - low) * constraints.layout.prunable < smallest / 2:
            break
        middle = (low + high) / 2
        try:
            found = rule.choose(saliency, counted, middle)
        except PlanError as error:  # too little to make layers of different widths equal
            low, refusal = middle, error
            continue
        amount = _spent(constraints, found)
        if amount <= target + constraints.slack:
            low, best = middle, max(best or (-1.0, found), (amount, found), key=lambda each: each[0])
        else:
            high = middle
    if abs(target - reached) <= constraints.slack:
        return most
    if best is None:
        if refusal is not None:
            raise refusal
        best = 0.0, rule.choose(saliency, counted, 0.0)
    if rule.fill is None:
        return best[1]
    return best[1]._replace(kept=rule.fill(saliency, constraints, _removed(constraints, best[1]), target))


def highest_share(rule: Rule, counted: Constraints) -> float:
    """The highest sparsity in parameters that the rule accepts, rounded down."""
    return math.floor(rule.reachable(counted) * 1e9) / 1e9


def reachable(rule: Rule, constraints: Constraints, saliency: Saliency) -> float:
    """The highest sparsity with these scores."""
    counted = replace(constraints, budget=PARAMETERS)
    most = rule.choose(saliency, counted, highest_share(rule, counted))
    return _spent(constraints, most) / constraints.total


def _removed(constraints: Constraints, chosen: Chosen) -> dict[Site, int]:
    return {site: place.units - len(chosen.kept.get(site, ())) for site, place in constraints.layout.items()}


def _spent(constraints: Constraints, chosen: Chosen) -> float:
    return spent(constraints.budget, constraints.layout, _removed(constraints, chosen))
