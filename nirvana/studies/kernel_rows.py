"""Kernel study: shift of the tangent kernel against pruned saliency, by criterion. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nirvana.evaluation.kernel_results import KernelShift
from nirvana.runs.recipe import Recipe
from nirvana.saliency.agreement import rank_correlation
from nirvana.studies.journal import Journal
from nirvana.studies.matrix_rows import Estimate
from nirvana.studies.sweep_grid import Point

FILE = "kernel.jsonl"
PARTS = ("shift", "remaining", "lost", "output_shift")  # of a KernelShift; absolute values are analysed


@dataclass(frozen=True)
class KernelRow:
    """One plan, and the kernel's shift that it causes at each input; None with a `failure`, its error."""

    point: Point
    shift: KernelShift | None = None
    seconds: float = 0.0
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        shift = self.shift.to_json() if self.shift else None
        return {"point": self.point.to_json(), "shift": shift, "seconds": self.seconds, "failure": self.failure}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KernelRow:
        shift = KernelShift.from_json(data["shift"]) if data["shift"] else None
        return cls(Point.from_json(data["point"]), shift, float(data["seconds"]), str(data["failure"]))


class Relation(NamedTuple):
    """How |change| depends on pruned saliency eps, over the plans of one criterion or all, and all inputs.

    Attributes:
        slope: of |change| on eps through the origin by least squares, in 1 / weight for a kernel.
        largest: maximum of |change| / eps: the constant that a bound |change| <= C eps needs here.
        exponent: slope of log |change| on log eps, 1 where the change is proportional to eps; NaN below two values.
        rank: Spearman's correlation of |change| with eps.
        rank_within: the same among the plans at one input, averaged over the inputs: differences between inputs,
            which scale both, are left out.
        pairs: of plan and input.
    """

    slope: float
    largest: float
    exponent: float
    rank: float
    rank_within: float
    pairs: int


@dataclass(frozen=True)
class KernelStudy:
    """Shifts of the kernel over criteria and sparsities, on the same inputs.

    Attributes:
        rows: one a plan, in order of completion; all with a shift.
        settings: recipe shared by the points, inputs, weights, dtype.
        failed: rows that failed.
    """

    rows: tuple[KernelRow, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    failed: tuple[KernelRow, ...] = ()

    @property
    def criteria(self) -> list[str]:
        return list(dict.fromkeys(row.point.criterion for row in self.rows))

    @property
    def sparsities(self) -> list[float]:
        """Requested sparsities, ascending."""
        return sorted({row.point.sparsity for row in self.rows})

    def relation(self, part: str = "shift", criterion: str | None = None) -> Relation:
        """Dependence of |`part`| on pruned saliency, `part` one of PARTS; `criterion` None: over all criteria.

        Raises:
            KeyError: there is no row of the criterion.
        """
        shifts = self._shifts(criterion)
        eps = np.array([shift.saliency for shift in shifts])  # (plans, N)
        change = np.abs([getattr(shift, part) for shift in shifts])
        used = eps > 0  # a plan may remove nothing
        flat, moved = eps[used], change[used]
        if not len(flat):
            return Relation(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
        within = [
            rank_correlation(change[used[:, sample], sample], eps[used[:, sample], sample])
            for sample in range(eps.shape[1])
            if used[:, sample].sum() > 1
        ]
        return Relation(
            slope=float(flat @ moved / (flat @ flat)),
            largest=float((moved / flat).max()),
            exponent=_exponent(flat, moved),
            rank=rank_correlation(flat, moved),
            rank_within=float(np.mean(within)) if within else math.nan,
            pairs=len(flat),
        )

    def relative(self, criterion: str, sparsity: float, part: str = "shift") -> Estimate:
        """Mean over the inputs of |`part`| over the dense kernel, with its standard error. Seeds are averaged first, so
        the error excludes the variance of calibration sets and random draws.

        Raises:
            KeyError: there is no such row.
        """
        return _mean(self.relative_values(criterion, sparsity, part))

    def relative_values(self, criterion: str, sparsity: float, part: str = "shift") -> np.ndarray:
        """(N,) |`part`| over the dense kernel at each input, the mean over seeds; raises as `relative`."""
        mean: np.ndarray = np.mean([shift.relative(part) for shift in self._shifts(criterion, sparsity)], axis=0)
        return mean

    def achieved(self, criterion: str, sparsity: float) -> float:
        """Mean achieved sparsity of the plans; raises as `relative`."""
        shifts = self._shifts(criterion, sparsity)
        return float(np.mean([shift.protocol["sparsity"] for shift in shifts]))

    def saliency(self, criterion: str, sparsity: float) -> Estimate:
        """Mean over the inputs of the pruned saliency eps(x), in units of f; raises as `relative`."""
        return _mean(np.mean([shift.saliency for shift in self._shifts(criterion, sparsity)], axis=0))

    def _shifts(self, criterion: str | None, sparsity: float | None = None) -> list[KernelShift]:
        found = [
            row.shift
            for row in self.rows
            if row.shift is not None
            and criterion in (None, row.point.criterion)
            and sparsity in (None, row.point.sparsity)
        ]
        if not found:
            raise KeyError((criterion, sparsity))
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "settings": self.settings,
            "rows": [row.to_json() for row in self.rows],
            "failed": [row.to_json() for row in self.failed],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KernelStudy:
        rows, failed = (tuple(map(KernelRow.from_json, data[name])) for name in ("rows", "failed"))
        return cls(rows, dict(data["settings"]), failed)


def read_kernel(folder: Path) -> KernelStudy | None:
    """The finished rows of a run folder's last kernel study; None without a request."""
    settings, rows = Journal(folder / FILE).last(KernelRow.from_json)
    return None if settings is None else assemble(settings, rows)


def assemble(settings: Mapping[str, Any], rows: Sequence[KernelRow]) -> KernelStudy:
    """The study of finished rows, the newest of each point."""
    newest = list({row.point: row for row in rows}.values())
    good = tuple(row for row in newest if row.shift is not None)
    return KernelStudy(good, dict(settings), tuple(row for row in newest if row.shift is None))


def shared_recipe(recipe: Recipe) -> Recipe:
    """The recipe of a study's points with the criterion, seed and sparsity left at fixed values."""
    return Point(0, "random", "shared", 0.5, "none", recipe.allocation.gamma).recipe(recipe)


def _exponent(eps: np.ndarray, change: np.ndarray) -> float:
    moved = change > 0
    if len(np.unique(eps[moved])) < 2:
        return math.nan
    from scipy.stats import linregress

    return float(linregress(np.log(eps[moved]), np.log(change[moved])).slope)


def _mean(values: np.ndarray) -> Estimate:
    count = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(values.mean()), error)
