"""Results of a sweep: means and spreads over seeds, and which differences are significant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nirvana.reporting.contests import better, contest, paired_mean
from nirvana.reporting.figures.chart import plus_minus
from nirvana.runs.describe import ALLOCATIONS, percent
from nirvana.studies.sweep_grid import Point
from nirvana.studies.sweep_rows import ACCURACY, Row

OURS = "nirvana"
SIMILAR = 0.01  # largest deviation from the target sparsity of compared points


class Way(NamedTuple):
    """One way to make a model, a line in a chart: `Way("taylor", "shared", "gamma 3.36")`. `column`: a key of
    ALLOCATIONS; `recovery`: in words, empty without one.
    """

    criterion: str
    column: str
    setting: str
    recovery: str = ""

    @property
    def rules(self) -> str:
        """Choices that criteria are compared under: as published, or the same allocation, gamma and compensation."""
        return ", ".join(filter(None, [ALLOCATIONS[self.column], self.setting if self.column != "published" else ""]))

    @property
    def contest(self) -> str:
        """Name of its contest: the rules, and the same recovery."""
        return ", ".join(filter(None, [self.rules, f"after {self.recovery}" if self.recovery else ""]))

    @property
    def label(self) -> str:
        return ", ".join(filter(None, [self.criterion, ALLOCATIONS[self.column], self.setting, self.recovery]))


@dataclass(frozen=True, eq=False)
class Cell:
    """One way at one sparsity: a number for each seed."""

    way: Way
    asked: float
    metric: str
    rows: Mapping[int, Row]  # by seed
    values: Mapping[int, float]  # by seed, of the metric

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.values.values())))

    @property
    def spread(self) -> float:
        """Sample standard deviation over seeds; NaN for a single one."""
        finite = [value for value in self.values.values() if math.isfinite(value)]
        return float(np.std(finite, ddof=1)) if len(finite) == len(self.values) > 1 else math.nan

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def sparsity(self) -> float:
        """Achieved sparsity, averaged over seeds."""
        return float(np.mean([row.sparsity for row in self.rows.values()]))

    @property
    def fair(self) -> bool:
        """Whether the achieved sparsity is near enough to the target for a comparison."""
        return all(abs(row.sparsity - self.asked) <= SIMILAR for row in self.rows.values())


class Gap(NamedTuple):
    """Paired difference of two ways over seeds: a ratio, or a difference of accuracies, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    neutral: float  # 1 for a ratio, 0 for a difference

    @property
    def side(self) -> int:
        """-1 or 1 where the interval lies below or above no difference, else 0."""
        return (self.low > self.neutral) - (self.high < self.neutral)

    def __str__(self) -> str:
        """With enough digits to show the side of no difference."""
        ends = [abs(end - self.neutral) for end in self[:3] if math.isfinite(end) and end != self.neutral]
        small = -math.floor(math.log10(min(ends))) if ends else 0  # decimals up to the first that is not zero
        if self.neutral:
            digits = min(max(4, small + 1), 9)
            return f"{self.value:.{digits}g} times [{self.low:.{digits}g}, {self.high:.{digits}g}]"
        value, low, high = (f"{100 * end:+.{min(max(1, small - 2), 6)}f}" for end in self[:3])
        return f"{value} points [{low}, {high}]"


HEADINGS = {
    "beaten": "Better than NIRVANA",
    "winner": "Clear winner",
    "tie": "No clear winner",
    "unknown": "One seed: significance unknown",
}


class Verdict(NamedTuple):
    """Sentences about one contest; `kind` is one of HEADINGS."""

    kind: str
    text: str


def metrics(rows: Iterable[Row]) -> list[str]:
    """Names of the metrics, perplexities first."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def words(metric: str) -> str:
    """Name of a metric in a sentence, e.g. "perplexity on novels", "KL divergence", "accuracy on minimal-pairs"."""
    return metric.replace(", ", " on ", 1)


def title(metric: str) -> str:
    """Title of an axis or table, e.g. "Perplexity on novels"."""
    named = words(metric)
    return named[0].upper() + named[1:]


def higher_is_better(metric: str) -> bool:
    return metric.startswith(ACCURACY)


def ways(point: Point) -> list[Way]:
    """Lines of a point; both, where the published allocation is the shared one."""
    member = {name: point.method == name for name in ALLOCATIONS} | {"published": point.as_published}
    return [Way(point.criterion, name, point.setting, point.trained) for name in ALLOCATIONS if member[name]]


def cells(rows: Iterable[Row], metric: str) -> list[Cell]:
    """Every way at every sparsity, as published first, that has a value of `metric`.

    If no point is of the published allocation alone, all are of the shared allocation only.
    """
    rows = list(rows)
    both = any(row.point.method == "published" for row in rows)
    found: dict[tuple[Way, float], dict[int, Row]] = {}
    for row in rows:
        if metric in row.values:
            for way in ways(row.point):
                if both or way.column != "published":
                    found.setdefault((way, row.point.sparsity), {})[row.point.seed] = row
    made = [
        Cell(way, asked, metric, by_seed, {seed: row.values[metric].value for seed, row in by_seed.items()})
        for (way, asked), by_seed in found.items()
    ]
    order = list(ALLOCATIONS)
    return sorted(made, key=lambda cell: (order.index(cell.way.column), cell.way.criterion, cell.way, cell.asked))


def paired_gap(one: Cell, other: Cell) -> Gap | None:
    """`one` over `other` (minus, for accuracies) on the seeds of both; None for fewer than two.

    The interval is Student's, of the mean over seeds of the difference; of logarithms, where it is a ratio.
    """
    ratio = not higher_is_better(one.metric)
    pairs = [(one.values[seed], other.values[seed]) for seed in one.values if seed in other.values]
    if ratio:
        pairs = [pair for pair in pairs if min(pair) > 0]
    if len(pairs) < 2 or not np.isfinite(pairs).all():
        return None
    one_side, other_side = (np.log(side) if ratio else side for side in np.array(pairs).T)
    found = paired_mean(one_side, other_side)
    value, low, high = (math.exp(min(end, 700.0)) if ratio else end for end in found[:3])
    return Gap(value, low, high, len(pairs), 1.0 if ratio else 0.0)


def verdicts(rows: Iterable[Row], metric: str) -> list[Verdict]:
    """The winner of each contest and every criterion better than NIRVANA, as sentences without Markdown."""
    contests: dict[tuple[float, str], list[Cell]] = {}
    for cell in cells(rows, metric):
        contests.setdefault((cell.asked, cell.way.contest), []).append(cell)
    found = []
    for (asked, rules), contenders in sorted(contests.items()):
        fair = [cell for cell in contenders if cell.fair]
        aside = sorted({cell.way.criterion for cell in contenders if not cell.fair})
        if len(fair) > 1:
            where = f"{percent(asked)}, {rules}"
            found += _contest(where, fair, metric, aside)
    return found


def _contest(where: str, contenders: Sequence[Cell], metric: str, aside: Sequence[str]) -> list[Verdict]:
    lower = not higher_is_better(metric)
    found = contest(
        [cell.mean for cell in contenders],
        lambda one, other: paired_gap(contenders[one], contenders[other]),
        lower=lower,
    )
    first, *others = (contenders[index] for index in found.ranking)
    best = f"{first.way.criterion} has the {'lowest' if lower else 'highest'} {words(metric)}, {number(first)}"
    left_out = f" Excluded: {', '.join(aside)}, with another achieved sparsity." if aside else ""
    if first.n < 2:
        text = f"{where}: {best}, from one seed: significance unknown, use more seeds."
        sentences = [Verdict("unknown", text + left_out)]
    elif found.winner is None:
        names = [contenders[index].way.criterion for index in found.unclear]
        text = f"{where}: {best}, but over {seeds(first.n)} it is not significantly different from {_list(names)}."
        sentences = [Verdict("tie", text + left_out)]
    else:
        runner_up, gap = others[0].way.criterion, paired_gap(others[0], first)
        text = f"{where}: {best}. The next, {runner_up}, has {gap} that, {_over([gap])}."
        sentences = [Verdict("winner", text + left_out)]
    ours = next((cell for cell in contenders if cell.way.criterion == OURS), None)
    if ours is not None:
        against = {cell.way.criterion: paired_gap(cell, ours) for cell in contenders if cell is not ours}
        beaten = {name: gap for name, gap in against.items() if better(gap, lower=lower)}
        if beaten:
            rivals = ", ".join(f"{name} has {gap} that" for name, gap in beaten.items())
            text = f"{where}: NIRVANA has {words(metric)} {number(ours)}; {rivals}, {_over(beaten.values())}."
            sentences.append(Verdict("beaten", text))
    return sentences


def _over(gaps: Iterable[Gap | None]) -> str:
    """Number of common seeds of the gaps."""
    counts = sorted({gap.n for gap in gaps if gap is not None})
    return f"over {seeds(counts[0])}" if len(counts) == 1 else f"over {counts[0]} to {counts[-1]} seeds"


def number(cell: Cell) -> str:
    """A cell's mean with its spread over seeds, e.g. "48.1 ± 0.9", "61.2 ± 0.4 %"."""
    if higher_is_better(cell.metric):
        return f"{plus_minus(100 * cell.mean, 100 * cell.spread)} %"
    return plus_minus(cell.mean, cell.spread)


def seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


class Line(NamedTuple):
    """One row of the comparison: a criterion at a sparsity, and its cell in each column, where there is one."""

    criterion: str
    asked: float
    cells: Mapping[str, Cell]


def comparison(rows: Sequence[Row], metric: str) -> tuple[list[str], list[Line]]:
    """The columns, "as published" and then "same allocation", for each gamma, compensation and recovery; and the
    lines.
    """
    found = cells(rows, metric)
    published = list(dict.fromkeys(cell.way.contest for cell in found if cell.way.column == "published"))
    settings = list(dict.fromkeys(cell.way.contest for cell in found if cell.way.column != "published"))
    short = {name: name for name in [*published, *settings]}
    if len(settings) == 1:
        way = next(cell.way for cell in found if cell.way.contest == settings[0])
        short[settings[0]] = ", ".join([ALLOCATIONS["shared"], *([f"after {way.recovery}"] if way.recovery else [])])
    columns = list(short.values())
    lines: dict[tuple[str, float], dict[str, Cell]] = {}
    order = list(dict.fromkeys(row.point.criterion for row in rows))
    for cell in sorted(found, key=lambda cell: (cell.asked, order.index(cell.way.criterion))):
        lines.setdefault((cell.way.criterion, cell.asked), {})[short[cell.way.contest]] = cell
    return columns, [Line(*key, found) for key, found in lines.items()]


def dense_value(rows: Iterable[Row], metric: str) -> tuple[float, float | None] | None:
    """The dense model's value with its standard error; none for KL."""
    for row in rows:
        value = row.values.get(metric)
        if value is not None and value.dense is not None:
            return value.dense, value.dense_error
    return None


def points_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Every finished point: choices, measurements with standard errors, and run."""
    found, rows = [], list(rows)
    trained = any(row.point.trained for row in rows)
    for row in rows:
        point = row.point
        line: dict[str, Any] = {
            "criterion": point.criterion,
            "allocation": ALLOCATIONS[point.method],
            "setting": point.setting,
            **({"recovery": point.trained or "none"} if trained else {}),
            "asked": point.sparsity,
            "seed": point.seed,
            "sparsity": row.sparsity,
            "parameters": row.sizes.get("parameters"),
            "bytes": row.sizes.get("bytes"),
        }
        for name, value in row.values.items():
            line |= {name: value.value, f"{name}, standard error": value.error}
            line |= {f"{name}, before recovery": value.pruned} if trained else {}
        for name, pace in row.speed.items():
            line |= {f"{name}, tokens/s": pace.tokens, f"{name}, times dense": pace.ratio}
        found.append(line | {"seconds": row.seconds, "failure": row.failure, "run": row.run_id})
    return pd.DataFrame(found)
