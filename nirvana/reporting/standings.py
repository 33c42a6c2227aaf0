"""Comparison of a run with others of the same model, on numbers of equal protocols and equal recovery."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nirvana.allocation.rules import balance
from nirvana.evaluation.results import Measurement, Report
from nirvana.reporting.aligned import align
from nirvana.reporting.contests import difference, differing
from nirvana.reporting.text import plain, plus_minus
from nirvana.runs.describe import recovery
from nirvana.runs.recovery import recovery_terms
from nirvana.runs.store import Run

BASELINES = ("random", "magnitude")  # criteria that serve as baselines
SIMILAR = 0.01  # sparsities this close are compared
COLLAPSED = 10.0  # times the dense perplexity


@dataclass(frozen=True)
class Standing:
    """A finished run's criterion, achieved sparsity and measurements.

    `recovery` names its recovery, and `terms` identifies it: equal where method, budget, options and text are. Both are
    empty without one.
    """

    run_id: str
    name: str
    criterion: str
    sparsity: float
    balance: str  # allocation rule
    weights: str  # hash of the dense model
    report: Report
    recovery: str = ""
    terms: str = ""

    def perplexities(self, subject: str = "pruned") -> list[Measurement]:
        """Perplexities of one model."""
        return [item for item in self.report.measurements if (item.metric, item.subject) == ("perplexity", subject)]

    def common_subject(self, other: Standing) -> str:
        """The model to compare with another run's: the recovered one after equal recoveries, else the pruned one."""
        return "recovered" if self.terms and self.terms == other.terms else "pruned"


class Duel(NamedTuple):
    """Two runs' perplexities, of equal protocol and similar sparsity."""

    mine: Standing
    other: Standing
    corpus: str
    ours: Measurement
    theirs: Measurement

    @property
    def side(self) -> int:
        """-1 where this run's perplexity is clearly lower, 1 where it is clearly higher, else 0."""
        found = difference(self.ours, self.theirs)
        return 0 if found is None else found.side

    @property
    def terms(self) -> str:
        """The recovery that the comparison follows or leaves out, as the end of a sentence; empty without any."""
        if self.ours.subject == "recovered":
            return f", both after {self.mine.recovery}"
        return ", both before recovery, which differs" if self.mine.terms or self.other.terms else ""


def read_standing(run: Run) -> Standing | None:
    """The standing of a run; None unless every result is current."""
    steps = [step for step in ("prune", "recover", "evaluate") if step in run.recipe.steps]
    if any(run.step_state(step) != "done" for step in steps):
        return None
    card, plan, report = run.model(), run.plan(), run.report()
    if card is None or plan is None or report is None:
        return None
    criterion, words = run.recipe.saliency.criterion, "".join(recovery(run.recipe.recovery))
    terms = recovery_terms(run)
    return Standing(
        run.id,
        run.name,
        criterion,
        plan.sparsity,
        balance(plan),
        card.hash,
        report,
        recovery=words if terms else "",
        terms=terms,
    )


def duels(mine: Standing, others: Sequence[Standing]) -> list[Duel]:
    """All pairs with the same model and protocol and sparsities within 0.01, on equal terms: recovered models are
    compared after equal recoveries only, else the pruned ones.
    """
    return [
        Duel(mine, other, str(ours.protocol.get("corpus", "")), ours, theirs)
        for other in others
        if other.weights == mine.weights and abs(other.sparsity - mine.sparsity) <= SIMILAR
        for ours in mine.perplexities(mine.common_subject(other))
        for theirs in other.perplexities(mine.common_subject(other))
        if not differing(ours, theirs) and ours.value > 0 and theirs.value > 0
    ]


def collapses(report: Report, vocabulary: int | None) -> list[str]:
    """A sentence for each corpus on which the run's last model no longer models language, as Markdown."""
    found, subject = [], report.subjects[-1] if report.subjects else ""
    for line in align(report, "perplexity"):
        dense, last = line.of.get("dense"), line.of.get(subject)
        if dense is None or last is None or subject == "dense":
            continue
        start = f"On {plain(line.corpus)} the {subject} model's perplexity is "
        start += plus_minus(last.value, last.standard_error)
        blind = vocabulary is not None and dense.value <= vocabulary < last.value
        if blind or not math.isfinite(last.value):
            guess = f", more than the {vocabulary:,} of guessing blindly among all tokens" if vocabulary else ""
            found.append(f"{start}{guess}: it no longer models language.")
        elif line.ratio(subject) >= COLLAPSED:
            found.append(f"{start}, {line.ratio(subject):,.0f} times the dense one's.")
    return found


def against_baselines(found: Sequence[Duel], side: int) -> list[str]:
    """A sentence for each baseline on that side of this run (see `Duel.side`), as Markdown."""
    return [_result(duel) for duel in found if duel.other.criterion in BASELINES and duel.side == side]


def _result(duel: Duel) -> str:
    ours, theirs = (plus_minus(item.value, item.standard_error) for item in (duel.ours, duel.theirs))
    return (
        f"On {plain(duel.corpus)} the {plain(duel.other.criterion)} criterion reaches perplexity {theirs} at "
        f"{duel.other.sparsity:.1%} (run {plain(duel.other.name)}), this run {ours}{duel.terms}."
    )
