"""An experiment: a sweep of a few points, what to look for in it, and the check of that observation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nirvana.models import tiny
from nirvana.runs.recipe import Recipe
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row, Value

KL = "KL divergence"
TEXT = "python-docs"
PERPLEXITY = f"perplexity, {TEXT}"
SMALLEST = 0.0001  # nats that are told from 0
CLEAR = 2.0  # standard errors of a difference that counts
# Of tiny models, whose tokens are bytes, so that a point takes a few seconds; of others with fewer, longer tokens.
SMALL: dict[str, dict[str, Any]] = {
    "calibration": {"samples": 8, "length": 256, "probe_samples": 16, "probe_length": 256},
    "evaluation": {"corpora": (TEXT,), "max_tokens": 4096},
}
USUAL: dict[str, dict[str, Any]] = {
    "calibration": {"samples": 16, "length": 128, "probe_samples": 16, "probe_length": 128},
    "evaluation": {"corpora": (TEXT,), "max_tokens": 4096},
}


class Finding(NamedTuple):
    """Whether the observation appeared, and the measured numbers in a sentence."""

    appeared: bool
    sentence: str


@dataclass(frozen=True)
class Experiment:
    """One question, a sweep that answers it, and the observation to expect.

    Attributes:
        name: identifies it in the registry, in URLs and on the command line.
        title: the question.
        look: what to look for, in one or two sentences, without numbers.
        why: the explanation, for after the observation.
        grid: points of the sweep.
        along: the choice on the horizontal axis.
        check: the finding from the rows of all points, none of them failed, by point.
        settings: values of the recipe by section, in place of those of all experiments.
        models: names of the models; the first is the default.
    """

    name: str
    title: str
    look: str
    why: str
    grid: Grid
    along: Literal["sparsity", "gamma", "seed"]
    check: Callable[[Sequence[Row]], Finding]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: tuple[str, ...] = (tiny.QUICK,)

    def recipe(self, model: str = "") -> Recipe:
        """The recipe around which the grid is swept.

        Args:
            model: by default the first of `models`.
        """
        name = model or self.models[0]
        made = Recipe().change("model", name=name)
        for changes in (SMALL if name in tiny.NAMES else USUAL, self.settings):
            for section, values in changes.items():
                made = made.change(section, **values)
        return made

    def own(self, rows: Sequence[Row]) -> list[Row]:
        """Rows of the experiment's points, in the order of its grid."""
        found = {row.point: row for row in rows}
        return [found[point] for point in self.grid.points() if point in found]

    def judge(self, rows: Sequence[Row]) -> Finding | None:
        """Whether the observation appears in the rows; None while a point is missing.

        Args:
            rows: of a sweep that has the experiment's points, and may have others.
        """
        own = self.own(rows)
        if len(own) < len(self.grid.points()):
            return None
        failed = [row for row in own if row.failure]
        if failed:
            return Finding(False, f"{len(failed)} of {len(own)} points failed. The first: {failed[0].failure}")
        return self.check(own)


def kl(row: Row) -> Value:
    """KL( dense || model ) in nats per token, and its standard error over the probes."""
    return row.values[KL]


def is_clearly_above(high: Value, low: Value) -> bool:
    """Whether `high` exceeds `low` by two standard errors of their difference, taken as independent.

    Both are measured on the same probes, so the errors of the difference are smaller: the test is strict.
    """
    return high.value - low.value > CLEAR * math.hypot(high.error or 0.0, low.error or 0.0)


def times(high: float, low: float) -> str:
    """A ratio in words, e.g. "2.4 times"; "over 100 times" from a ratio of 100."""
    return f"{high / low:,.2g} times" if low > 0 and high / low < 100 else "over 100 times"


def nats(value: float) -> str:
    """A KL divergence with three significant digits and without an exponent, e.g. "0.00312"."""
    if 0 <= value < SMALLEST:
        return f"less than {SMALLEST}"
    return f"{value:.{2 - math.floor(math.log10(value))}f}" if 0 < value < 0.1 else f"{value:.3g}"
