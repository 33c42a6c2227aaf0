"""Rules that count parameters, within a budget in bytes or measured time.

Such a rule defines a plan for every share of the parameters. The largest share whose plan stays within the budget is
found by bisection, so the rule keeps its order of removal, and gamma its meaning.
"""

from __future__ import annotations

import math
from dataclasses import replace

from nirvana.allocation.blocks import spend_in_blocks
from nirvana.allocation.budgets import PARAMETERS, spent
from nirvana.allocation.constraints import Chosen, Constraints, lowest_go, out_of_reach
from nirvana.allocation.rules import Rule
from nirvana.errors import PlanError
from nirvana.layout import NEURON, Site
from nirvana.saliency.scores import Saliency

STEPS = 40  # of the bisection, at most


def choose(rule: Rule, saliency: Saliency, constraints: Constraints, sparsity: float) -> Chosen:
    """The plan of `rule` for the largest share of the parameters within the budget.

    Where the rule ranks single neurons, the rest of the budget is spent in blocks of the lowest-scored ones.

    Raises:
        PlanError: the sparsity is out of reach; the reachable maximum is named.
    """
    target, counted = constraints.amount(sparsity), replace(constraints, budget=PARAMETERS)
    low, high = 0.0, highest_share(rule, counted)
    most = rule.choose(saliency, counted, high)
    reached = _spent(constraints, most)
    if target > reached + constraints.slack:
        raise out_of_reach(sparsity, reached / constraints.total)
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
    return _filled(saliency, constraints, best[1], target) if rule.fills else best[1]


def highest_share(rule: Rule, counted: Constraints) -> float:
    """The highest sparsity in parameters that the rule accepts, rounded down."""
    return math.floor(rule.reachable(counted) * 1e9) / 1e9


def reachable(rule: Rule, constraints: Constraints, saliency: Saliency) -> float:
    """The highest sparsity with these scores."""
    counted = replace(constraints, budget=PARAMETERS)
    most = rule.choose(saliency, counted, highest_share(rule, counted))
    return _spent(constraints, most) / constraints.total


def _filled(saliency: Saliency, constraints: Constraints, chosen: Chosen, target: float) -> Chosen:
    removed = _removed(constraints, chosen)
    neurons = {site: removed[site] for site in constraints.layout.pool(NEURON)}
    others = {site: count for site, count in removed.items() if site not in neurons}
    left = target - spent(constraints.budget, constraints.layout, others)
    return chosen._replace(kept=lowest_go(saliency, others | spend_in_blocks(saliency, constraints, neurons, left)))


def _removed(constraints: Constraints, chosen: Chosen) -> dict[Site, int]:
    return {site: place.units - len(chosen.kept.get(site, ())) for site, place in constraints.layout.items()}


def _spent(constraints: Constraints, chosen: Chosen) -> float:
    return spent(constraints.budget, constraints.layout, _removed(constraints, chosen))
