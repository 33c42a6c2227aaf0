"""Registry of allocation rules: the shared allocation, and those published with criteria."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from nirvana.allocation import equal_widths, joint, measured, per_layer, shared, whole_layers
from nirvana.allocation.budgets import UNITS
from nirvana.allocation.constraints import Chosen, Constraints, all_room
from nirvana.allocation.filling import fill_blocks, fill_widths
from nirvana.errors import PlanError
from nirvana.layout import Site
from nirvana.plan import PruningPlan
from nirvana.saliency.scores import Saliency

FROM_SCORES = ("shared", "published")
METHODS = (*FROM_SCORES, "measured")


class Rule(NamedTuple):
    """Allocation rule; `label` describes it in a few words, `summary` in a sentence.

    `constrain` adds the rule's own constraints; `uniform`: it supports equal widths. `counts_any`: it spends every
    budget itself; others count parameters. `fill` adds neurons to its plan, to spend the rest of another budget.
    """

    label: str
    summary: str
    choose: Callable[[Saliency, Constraints, float], Chosen]
    reachable: Callable[[Constraints], float]
    uses_gamma: bool = False
    constrain: Callable[[Constraints], Constraints] = lambda constraints: constraints
    uniform: bool = False
    counts_any: bool = False
    fill: Callable[[Saliency, Constraints, Mapping[Site, int], float], dict[Site, np.ndarray]] | None = None


RULES = {
    "shared": Rule(
        "global rankings",
        "KV groups and neurons are each ranked over all layers, and gamma ties their two rates.",
        shared.choose,
        shared.reachable,
        uses_gamma=True,
        uniform=True,
        fill=fill_blocks,
    ),
    "measured": Rule(
        "measured loss curves",
        "KV groups and neurons are removed where a parameter, or a second of the budget, costs the least measured KL, "
        "lowest-scored units first.",
        measured.choose,
        all_room,
        uniform=True,
        counts_any=True,
    ),
    "per-layer": Rule(
        "one ratio in every layer",
        "Every layer loses the same share of its attention and of its MLP, units ranked within each.",
        per_layer.choose,
        all_room,
        constrain=per_layer.equal_rates,
        uniform=True,
    ),
    "per-layer-middle": Rule(
        "one ratio in the middle layers",
        "The first eighth and last sixteenth of the layers stay whole; the others lose one share, ranked within each.",
        per_layer.choose,
        all_room,
        constrain=per_layer.middle,
    ),
    "joint": Rule(
        "one joint ranking",
        "KV groups and neurons of all layers are in one ranking, each removing its own parameters.",
        joint.choose,
        all_room,
        fill=fill_blocks,
    ),
    "layers": Rule(
        "whole layers",
        "Whole layers are removed, the lowest-scored first.",
        whole_layers.choose,
        whole_layers.reachable,
    ),
}


def check_method(method: str) -> None:
    """Validate the name of an allocation method.

    Raises:
        PlanError: naming it.
    """
    if method not in METHODS:
        raise PlanError(f"There is no allocation method {method!r}.", f"Use one of {', '.join(METHODS)}.")


def rule_name(method: str, criterion: str) -> str:
    """The key in `RULES` of a method for a criterion.

    Raises:
        PlanError: there is no such method.
        SaliencyError: there is no such criterion.
    """
    from nirvana.saliency.criteria import published_allocation

    check_method(method)
    return published_allocation(criterion) if method == "published" else method


def uses_gamma(method: str, criterion: str) -> bool:
    """Whether the rule uses gamma."""
    return RULES[rule_name(method, criterion)].uses_gamma


def find_rule(name: str, uniform: bool) -> Rule:
    """The rule of that name, or its form with equal widths.

    Raises:
        PlanError: the rule gives each layer a width of its own.
    """
    rule = RULES[name]
    if not uniform:
        return rule
    if not rule.uniform:
        raise PlanError(
            f"The published allocation of this criterion ({name}) does not give all layers equal widths.",
            "Use the shared allocation, or allocate without equal widths.",
        )
    if rule is RULES["measured"]:
        return rule._replace(choose=measured.choose_equal, reachable=equal_widths.all_room)
    return rule._replace(choose=equal_widths.choose, reachable=equal_widths.reachable, fill=fill_widths)


def balance(plan: PruningPlan) -> str:
    """Label of a plan's allocation, e.g. "gamma 3.36, normalisation 0.5" or "one ratio in every layer"."""
    rule = RULES.get(plan.method)
    words = f"gamma {plan.gamma:g}" if rule is None or rule.uses_gamma else rule.label
    words += f", normalisation {plan.normalisation:g}" if plan.normalisation else ""
    words += ", equal widths" if plan.uniform else ""
    return words + (f", budget in {UNITS[plan.budget]}" if plan.budget in UNITS else "")
