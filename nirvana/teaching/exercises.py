"""Exercises: questions on the open run with a number for an answer, and plans to make with the sliders."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nirvana.layout import KV_GROUP, MLP, NEURON
from nirvana.plan import PruningPlan
from nirvana.runs.describe import percent
from nirvana.runs.run import Run

NEAR = 0.005  # of a requested sparsity


class Answer(NamedTuple):
    """Whether an answer is right, and why or what is missing."""

    right: bool
    words: str


class NumberExercise(NamedTuple):
    """A question whose answer is a number of the run.

    Attributes:
        name: identifies it in widget keys.
        question: in one or two sentences.
        page: key of the page that shows the numbers.
        truth: the answer from the run's results; None where it lacks them.
        tolerance: accepted relative deviation.
        hint: the way to the answer.
    """

    name: str
    question: str
    page: str
    truth: Callable[[Run], float | None]
    tolerance: float
    hint: str

    def check(self, run: Run, given: float) -> Answer | None:
        """Compare a number with the run's; None where the run lacks the results."""
        truth = self.truth(run)
        if truth is None:
            return None
        right = abs(given - truth) <= self.tolerance * abs(truth)
        return Answer(right, f"It is {truth:.4g}." if right else f"Not yet. {self.hint}")


class PlanExercise(NamedTuple):
    """A plan to make on the Allocation page.

    Attributes:
        name: identifies it in widget keys.
        task: in one or two sentences.
        check: whether a plan fulfils it.
    """

    name: str
    task: str
    check: Callable[[PruningPlan], Answer]


def groups(run: Run) -> float | None:
    """KV groups of the model."""
    card = run.model()
    return None if card is None else float(sum(card.layout[site].units for site in card.layout.pool(KV_GROUP)))


def share(run: Run) -> float | None:
    """Removed share of all parameters, in percent."""
    plan = run.plan()
    return None if plan is None else 100 * (1 - plan.pruned_layout.parameters / plan.layout.parameters)


def cost(run: Run) -> float | None:
    """Perplexity of the pruned model over the dense one's, on the first text."""
    report = run.report()
    pruned = report.find("perplexity", "pruned") if report else None
    if report is None or pruned is None:
        return None
    dense = report.find("perplexity", "dense", corpus=pruned.protocol.get("corpus"))
    return pruned.value / dense.value if dense else None


def spares_attention(plan: PruningPlan) -> Answer:
    """At 20 %, with a finite gamma, every KV group is kept."""
    wrong = _wrong_sparsity(plan, 0.2)
    if wrong:
        return wrong
    if math.isinf(plan.gamma):
        return Answer(False, "With gamma ∞ it is true by definition. Find a finite gamma.")
    lost = plan.rate(KV_GROUP)
    if lost:
        return Answer(False, f"With gamma {plan.gamma:g} attention loses {lost:.1%}. Go on.")
    return Answer(
        True,
        f"With gamma {plan.gamma:g} attention is asked for less than one whole KV group, so the MLP pays all: "
        f"{plan.rate(NEURON):.1%} of its neurons.",
    )


def protects_first(plan: PruningPlan) -> Answer:
    """At 30 %, layer 0 is protected, so that it keeps every unit."""
    wrong = _wrong_sparsity(plan, 0.3)
    if wrong:
        return wrong
    first = [site for site in plan.layout if site.layer == 0]
    lost = sum(plan.layout[site].units - len(plan.kept.get(site, ())) for site in first)
    if lost or not set(first) <= set(plan.protected):
        return Answer(False, f"Layer 0 is not protected: it loses {lost:,} units. See Advanced.")
    others = [site for site in plan.layout.pool(NEURON) if site.layer]
    rate = 1 - sum(len(plan.kept.get(site, ())) for site in others) / sum(plan.layout[site].units for site in others)
    return Answer(True, f"Layer 0 keeps everything, and the other layers lose {rate:.1%} of their neurons for it.")


def equal_widths(plan: PruningPlan) -> Answer:
    """At 30 %, all layers keep the same number of neurons."""
    wrong = _wrong_sparsity(plan, 0.3)
    if wrong:
        return wrong
    by_stack: dict[str, set[int]] = {}
    for site in plan.layout:
        if site.module == MLP:
            by_stack.setdefault(site.stack, set()).add(len(plan.kept.get(site, np.empty(0))))
    widths = [width for each in by_stack.values() for width in each]
    if len(widths) > len(by_stack):
        return Answer(False, f"The MLPs keep from {min(widths):,} to {max(widths):,} neurons. See Advanced.")
    return Answer(True, f"Every MLP keeps {min(widths):,} neurons: a plain checkpoint that every program reads.")


def _wrong_sparsity(plan: PruningPlan, wanted: float) -> Answer | None:
    if abs(plan.requested - wanted) < NEAR:
        return None
    return Answer(False, f"The plan's sparsity is {percent(plan.requested)}; set it to {percent(wanted)}.")


NUMBERS = (
    NumberExercise(
        "groups",
        "How many KV groups can be removed from this model in all?",
        "model",
        groups,
        0.0,
        "Multiply the KV heads of a layer by the layers that have attention.",
    ),
    NumberExercise(
        "share",
        "The sparsity counts attention and MLP weights only. By how many percent is the whole model smaller?",
        "prune",
        share,
        0.02,
        "Divide the parameters after by those before; embeddings, norms and the head stay.",
    ),
    NumberExercise(
        "cost",
        "By what factor does pruning alone raise perplexity on the first text?",
        "compare",
        cost,
        0.02,
        "Divide the pruned model's perplexity by the dense one's; the recovered model is another question.",
    ),
)
PLANS = (
    PlanExercise("spare", "Find a finite gamma at which attention loses nothing at 20 %.", spares_attention),
    PlanExercise("protect", "Make the plan for 30 % with layer 0 protected.", protects_first),
    PlanExercise("equal", "Make a plan for 30 % in which every MLP keeps the same number of neurons.", equal_widths),
)
