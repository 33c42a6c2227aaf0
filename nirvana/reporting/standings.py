"""Comparison of a run with others of the same model, on numbers of equal protocols."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nirvana.allocation.rules import balance
from nirvana.evaluation.results import Measurement, Report
from nirvana.reporting.contests import difference, differing
from nirvana.reporting.figures.chart import plus_minus
from nirvana.reporting.figures.compare import COLLAPSED, pairs
from nirvana.reporting.text import plain
from nirvana.runs.store import Run

BASELINES = ("random", "magnitude")  # criteria that serve as baselines
SIMILAR = 0.01  # sparsities this close are compared


@dataclass(frozen=True)
class Standing:
    """A finished run's criterion, achieved sparsity and measurements."""

    run_id: str
    name: str
    criterion: str
    sparsity: float
    balance: str  # allocation rule
    weights: str  # hash of the dense model
    report: Report

    def perplexities(self) -> list[Measurement]:
        """Perplexities of the pruned model."""
        return [item for item in self.report.measurements if (item.metric, item.subject) == ("perplexity", "pruned")]


class Duel(NamedTuple):
    """Two runs' perplexities, of equal protocol and similar sparsity."""

    other: Standing
    corpus: str
    ours: Measurement
    theirs: Measurement

    @property
    def side(self) -> int:
        """-1 where this run's perplexity is clearly lower, 1 where it is clearly higher, else 0."""
        found = difference(self.ours, self.theirs)
        return 0 if found is None else found.side


def read_standing(run: Run) -> Standing | None:
    """The standing of a run; None unless every result is current."""
    if run.step_state("evaluate") != "done" or run.step_state("prune") != "done":
        return None
    card, plan, report = run.model(), run.plan(), run.report()
    if card is None or plan is None or report is None:
        return None
    choice = run.recipe
    return Standing(run.id, run.name, choice.saliency.criterion, plan.sparsity, balance(plan), card.hash, report)


def duels(mine: Standing, others: Sequence[Standing]) -> list[Duel]:
    """All pairs with the same model and protocol and sparsities within 0.01."""
    return [
        Duel(other, str(ours.protocol.get("corpus", "")), ours, theirs)
        for other in others
        if other.weights == mine.weights and abs(other.sparsity - mine.sparsity) <= SIMILAR
        for ours in mine.perplexities()
        for theirs in other.perplexities()
        if not differing(ours, theirs) and ours.value > 0 and theirs.value > 0
    ]


def collapses(report: Report, vocabulary: int | None) -> list[str]:
    """A sentence for each corpus on which the pruned model no longer models language, as Markdown."""
    found = []
    for pair in pairs(report, "perplexity"):
        if pair.dense is None or pair.pruned is None:
            continue
        value = plus_minus(pair.pruned.value, pair.pruned.standard_error)
        corpus = plain(pair.corpus)
        blind = vocabulary is not None and pair.dense.value <= vocabulary < pair.pruned.value
        if blind or not math.isfinite(pair.pruned.value):
            guess = f", more than the {vocabulary:,} of guessing blindly among all tokens" if vocabulary else ""
            found.append(f"On {corpus} the pruned model's perplexity is {value}{guess}: it no longer models language.")
        elif pair.ratio >= COLLAPSED:
            found.append(
                f"On {corpus} the pruned model's perplexity is {value}, {pair.ratio:,.0f} times the dense one's."
            )
    return found


def against_baselines(found: Sequence[Duel], side: int) -> list[str]:
    """A sentence for each baseline on that side of this run (see `Duel.side`), as Markdown."""
    return [_result(duel) for duel in found if duel.other.criterion in BASELINES and duel.side == side]


def _result(duel: Duel) -> str:
    ours, theirs = (plus_minus(item.value, item.standard_error) for item in (duel.ours, duel.theirs))
    return (
        f"On {plain(duel.corpus)} the {plain(duel.other.criterion)} criterion reaches perplexity {theirs} at "
        f"{duel.other.sparsity:.1%} (run {plain(duel.other.name)}), this run {ours}."
    )
