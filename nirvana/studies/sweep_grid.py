"""Points of a sweep: combinations of choices around the recipe of one run. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from nirvana.allocation.rules import FROM_SCORES, METHODS, rule_name
from nirvana.compensation import METHODS as COMPENSATIONS
from nirvana.errors import CompensationError, PlanError, RecoveryError, RunError, SaliencyError
from nirvana.recovery.options import METHODS as METHODS_OF_RECOVERY
from nirvana.runs.describe import ALLOCATIONS, RECOVERIES, compensation, percent, plan_setting
from nirvana.runs.recipe import (
    LAST_SEED,
    AllocationChoice,
    CalibrationChoice,
    PruneChoice,
    Recipe,
    RecoveryChoice,
)
from nirvana.saliency.criteria import available, find_criterion
from nirvana.schema import Distinct, Extended, Schema, option

MOST_POINTS = 400
WIDTHS = ("own", "equal")
LAST_DRAW = 2**31  # above which a recovery has no seed
PUBLISHED_GAMMA = AllocationChoice().gamma  # of NIRVANA's authors
DRAWN = ("corpus", "samples", "length", "probe_samples", "probe_length", "probe_seed", "task")  # of one calibration set


class Point(NamedTuple):
    """One pruned model of a sweep, recovered or not, e.g. `Point(0, "taylor", "published", 0.2, "none", 3.36)`.

    `method`: "shared", or "published" for the allocation and compensation of the criterion's authors. `gamma` has no
    effect where the allocation does not use it. `equal`: equal widths in all layers.
    """

    seed: int
    criterion: str
    method: str
    sparsity: float
    compensation: str
    gamma: float
    normalisation: float = 0.0
    recovery: str = "none"
    equal: bool = False

    @property
    def as_published(self) -> bool:
        """Whether it is the published method of the criterion, which for some is the shared allocation."""
        known = find_criterion(self.criterion)
        own = (self.compensation, self.gamma, self.normalisation) == (known.compensation, PUBLISHED_GAMMA, 0)
        return self.method == "published" or (self.method == known.published == "shared" and own and not self.equal)

    @property
    def setting(self) -> str:
        """Settings of pruning other than criterion and sparsity, e.g. "gamma 4, least squares"."""
        plan = plan_setting(self.criterion, self.method, self.gamma, self.normalisation)
        return ", ".join([*plan, *(["equal widths"] if self.equal else []), *compensation(self.compensation)])

    @property
    def label(self) -> str:
        """E.g. "taylor, same allocation, 20 %, gamma 3.36, distillation, seed 0"."""
        parts = [self.criterion, ALLOCATIONS[self.method], percent(self.sparsity), self.setting, self.trained]
        return ", ".join([*filter(None, parts), f"seed {self.seed}"])

    @property
    def trained(self) -> str:
        """The recovery in words, e.g. "distillation"; empty without one."""
        return RECOVERIES.get(self.recovery, "")

    def recipe(self, base: Recipe) -> Recipe:
        """The recipe of this point's run: the sweep's recipe with the point's choices.

        One calibration set is drawn with the point's seed, without a choice by KL, so that seeds are independent.
        Statistics of a compensation, and windows of a recovery, are drawn with the point's seed, too.
        """
        kept = {name: getattr(base.calibration, name) for name in DRAWN}
        one = CalibrationChoice(candidates=1, seed=self.seed, **kept)
        drawn = base.with_values(calibration=one).change("saliency", criterion=self.criterion)
        names = ("sparsity", "gamma", "method", "normalisation")
        chosen = {name: getattr(self, name) for name in names}
        uniform = base.allocation.uniform or self.equal
        made = drawn.change("allocation", **chosen, uniform=uniform, widths=(), edits=())
        trained = RecoveryChoice()
        if self.recovery != "none":
            trained = base.recovery.with_values(method=self.recovery, seed=(base.recovery.seed + self.seed) % LAST_DRAW)
        made = made.with_values(recovery=trained)
        if self.compensation == "none":
            return made.change("prune", **vars(PruneChoice()))
        return made.change("prune", compensation=self.compensation, seed=base.prune.seed + self.seed)

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"gamma": "inf" if math.isinf(self.gamma) else self.gamma}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        return cls(**{**data, "gamma": float(data["gamma"])})


class Grid(Schema):
    """Choices of a sweep, which measures every combination, e.g. `Grid(criteria=("nirvana", "flap"), seeds=(0, 1, 2))`.

    `methods`: "shared", the same allocation for all; "published", each criterion with its authors' allocation,
    compensation and, where it has one, gamma 3.36; "measured", by loss curves, which each criterion and seed take
    minutes for. Gammas and normalisations belong to the shared allocation, compensations and widths to the measured one
    too. `widths`: "own", as the recipe has them, and "equal" in all layers, which a plain checkpoint needs.
    `recoveries`: training after pruning, with the sweep's budget for every point. One calibration set is drawn for each
    seed.
    """

    criteria: Distinct[str] = option(
        ("nirvana", "taylor", "random"),
        "--criterion",
        "criterion; may be repeated",
        choices=available,
        error=SaliencyError,
    )
    methods: Distinct[str] = option(
        FROM_SCORES, "--method", "allocation; may be repeated", choices=lambda: METHODS, error=PlanError
    )
    sparsities: Distinct[float] = option(
        (0.2, 0.4),
        "--sparsity",
        "share of attention and MLP weights to remove; may be repeated",
        gt=0,
        lt=1,
        error=PlanError,
    )
    seeds: Distinct[int] = option(
        (0, 1, 2), "--seed", "seed of the calibration set; may be repeated", ge=0, le=LAST_SEED // 2
    )
    compensations: Distinct[str] = option(
        ("none",),
        "--compensation",
        "compensation, unless as published; may be repeated",
        choices=lambda: COMPENSATIONS,
        error=CompensationError,
    )
    gammas: Distinct[Extended] = option(
        (PUBLISHED_GAMMA,),
        "--gamma",
        "MLP pruning rate over attention pruning rate in the shared allocation; may be repeated",
        ge=0,
        error=PlanError,
    )
    normalisations: Distinct[float] = option(
        (0.0,),
        "--normalisation",
        "score normalisation exponent in the shared allocation (0 = off); may be repeated",
        ge=0,
        le=1,
        error=PlanError,
    )
    recoveries: Distinct[str] = option(
        ("none",),
        "--recovery",
        "training after pruning; may be repeated",
        choices=lambda: ("none", *METHODS_OF_RECOVERY),
        error=RecoveryError,
    )
    speed: bool = option(False, "--speed", "measure the speed of each pruned model beside the dense one")
    widths: Distinct[str] = option(
        ("own",),
        "--widths",
        "widths of the layers, as the recipe has them or equal; may be repeated",
        choices=lambda: WIDTHS,
        error=PlanError,
    )

    def points(self) -> list[Point]:
        """Every combination once, ordered by seed, criterion and sparsity, so that neighbours share most results.

        Where the published allocation is the shared one, one point serves both methods.
        """
        return list(dict.fromkeys(self._points()))

    def same_rows(self, one: Recipe, other: Recipe) -> bool:
        """Whether the sweeps around two recipes have the same rows: they may differ in what no point uses, such as the
        budget of a recovery in a sweep without one.
        """
        return one == other or all(point.recipe(one) == point.recipe(other) for point in self.points())

    def _points(self) -> Iterator[Point]:
        for seed in self.seeds:
            for criterion in self.criteria:
                for sparsity in self.sparsities:
                    for method in METHODS:
                        if method in self.methods:
                            for point in self._ways(seed, criterion, method, sparsity):
                                yield from (point._replace(recovery=recovery) for recovery in self.recoveries)

    def _ways(self, seed: int, criterion: str, method: str, sparsity: float) -> Iterator[Point]:
        """The points of one method, before recovery."""
        equal = [width == "equal" for width in WIDTHS if width in self.widths]
        if method == "measured":
            for compensation, uniform in product(self.compensations, equal):
                yield Point(seed, criterion, method, sparsity, compensation, PUBLISHED_GAMMA, equal=uniform)
            return
        if method == "shared":
            for compensation, gamma, part, uniform in product(
                self.compensations, self.gammas, self.normalisations, equal
            ):
                yield Point(seed, criterion, method, sparsity, compensation, gamma, part, equal=uniform)
            return
        own = find_criterion(criterion).compensation
        shared = rule_name(method, criterion) == "shared" and "shared" in self.methods
        plain = PUBLISHED_GAMMA in self.gammas and 0 in self.normalisations
        serves = shared and plain and own in self.compensations and "own" in self.widths
        yield Point(seed, criterion, "shared" if serves else method, sparsity, own, PUBLISHED_GAMMA)

    def check(self) -> None:
        """Validate the grid as a whole.

        Raises:
            RunError: a list is empty, or there are more than 400 points.
        """
        check_size(
            self,
            "grid",
            len(self.points()),
            "Choose fewer criteria, sparsities or seeds. A finished sweep can be extended afterwards.",
        )


def check_size(request: Schema, noun: str, points: int, hint: str) -> None:
    """Check the lists of a request, and its number of points.

    Args:
        noun: the request in an error, e.g. "grid".
        hint: how to have fewer points.

    Raises:
        RunError: a list is empty, or there are more than 400 points.
    """
    for name, values in vars(request).items():
        if values == ():
            raise RunError(f"The {noun} has no {name}.", "Choose at least one of each.")
    if points > MOST_POINTS:
        raise RunError(f"The {noun} has {points:,} points; at most {MOST_POINTS} are possible.", hint)
