"""Recovery in a sweep: each way to prune before and after it, and whether the ranking changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from nirvana.reporting.contests import better, contest, paired_mean
from nirvana.reporting.sweeps import Cell, cells, higher_is_better, paired_gap, words
from nirvana.runs.describe import percent
from nirvana.studies.sweep_rows import Row


class Mean(NamedTuple):
    """A mean over seeds with its 95 % interval by Student's t, which is infinite for a single seed."""

    value: float
    low: float
    high: float


class Pair(NamedTuple):
    """One way to prune at one sparsity, before and after one recovery."""

    cell: Cell
    before: Mean
    after: Mean

    @property
    def label(self) -> str:
        way = self.cell.way
        return f"{percent(self.cell.asked)}: {way.criterion}, {way.rules}"


def before_after(rows: Iterable[Row], metric: str) -> list[Pair]:
    """Every recovered way that has `metric`, by sparsity and then from the best before recovery to the worst.

    Perplexities are ratios to the dense model's; other metrics are as measured.
    """
    found = []
    for cell in cells(rows, metric):
        if cell.way.recovery:
            sides = [_numbers(cell, recovered) for recovered in (False, True)]
            if all(np.isfinite(side).all() and len(side) for side in sides):
                found.append(Pair(cell, *(_mean(side, metric) for side in sides)))
    sign = -1 if higher_is_better(metric) else 1
    return sorted(found, key=lambda pair: (pair.cell.asked, sign * pair.before.value, pair.cell.way))


def _numbers(cell: Cell, recovered: bool) -> np.ndarray:
    """(seeds,) numbers of the pruned or the recovered model; NaN where one is missing."""
    found = []
    for row in cell.rows.values():
        value = row.values[cell.metric]
        number = value.value if recovered else value.pruned
        scale = value.dense if cell.metric.startswith("perplexity") else 1.0
        found.append(math.nan if number is None or not scale else number / scale)
    return np.array(found)


def _mean(numbers: np.ndarray, metric: str) -> Mean:
    """The mean; of logarithms, where differences are ratios."""
    log = not higher_is_better(metric) and bool((numbers > 0).all())
    found = paired_mean(np.log(numbers) if log else numbers, np.zeros(len(numbers)))
    return Mean(*((math.exp(end) if end < 700 else math.inf) if log else end for end in found[:3]))


def ranking_words(pairs: Sequence[Pair], metric: str) -> list[str]:
    """A sentence for each contest of two ways or more: the best before and after recovery, and whether it changes."""
    contests: dict[tuple[float, str, str], list[Pair]] = {}
    for pair in pairs:
        way = pair.cell.way
        contests.setdefault((pair.cell.asked, way.rules, way.recovery), []).append(pair)
    return [_ranking(*key, found, metric) for key, found in contests.items() if len(found) > 1]


def _ranking(asked: float, rules: str, recovery: str, pairs: Sequence[Pair], metric: str) -> str:
    lower = not higher_is_better(metric)
    sign = 1 if lower else -1
    first = min(pairs, key=lambda pair: sign * pair.before.value)
    found = contest(
        [pair.after.value for pair in pairs],
        lambda one, other: paired_gap(pairs[one].cell, pairs[other].cell),
        lower=lower,
    )
    last = pairs[found.ranking[0]]
    where = f"{percent(asked)}, {rules}"
    names = [pair.cell.way.criterion for pair in (first, last)]
    superlative = f"{'lowest' if lower else 'highest'} {words(metric)}"
    if first is last:
        return f"{where}: {names[0]} has the {superlative} before and after {recovery}."
    gap = paired_gap(last.cell, first.cell)
    surely = "a significant difference" if better(gap, lower=lower) else "not significantly different"
    surely = "from one seed: significance unknown" if gap is None else surely
    return f"{where}: {names[0]} has the {superlative} before {recovery}, {names[1]} after it, {surely}."
