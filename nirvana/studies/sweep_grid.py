"""What a sweep computes: every combination of some choices, around the recipe of one run. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from nirvana.allocation.rules import METHODS, check_method, rule_name, uses_gamma
from nirvana.compensation import METHODS as COMPENSATIONS
from nirvana.errors import CompensationError, PlanError, RunError
from nirvana.runs.recipe import AllocationChoice, CalibrationChoice, PruneChoice, Recipe
from nirvana.runs.validation import SEEDS, check_rates
from nirvana.saliency.criteria import find_criterion

MOST_POINTS = 400
PUBLISHED_GAMMA = AllocationChoice().gamma  # what NIRVANA's authors use
COLUMNS = {"published": "as published", "shared": "same allocation"}
DRAWN = ("corpus", "samples", "length", "probe_samples", "probe_length", "probe_seed", "task")  # of one calibration set
LISTS: dict[str, type] = {  # of a grid, with what they hold
    "criteria": str,
    "methods": str,
    "sparsities": float,
    "seeds": int,
    "compensations": str,
    "gammas": float,
    "normalisations": float,
}
COMPENSATION_WORDS = {"bias": "bias", "least_squares": "least squares"}


class Point(NamedTuple):
    """One pruned model of a sweep, e.g. `Point(0, "taylor", "published", 0.2, "none", 3.36)`.

    `method`: "shared", or "published" for what the criterion's authors do, their compensation with it. `gamma` says
    nothing where the allocation makes no use of it.
    """

    seed: int
    criterion: str
    method: str
    sparsity: float
    compensation: str
    gamma: float
    normalisation: float = 0.0

    @property
    def as_published(self) -> bool:
        """Whether it is what the criterion's authors publish; of some criteria, that is the shared allocation too."""
        known = find_criterion(self.criterion)
        own = (self.compensation, self.gamma, self.normalisation) == (known.compensation, PUBLISHED_GAMMA, 0)
        return self.method == "published" or (known.published == "shared" and own)

    @property
    def setting(self) -> str:
        """What distinguishes it within its criterion and sparsity, in words, e.g. "gamma 4, least squares"."""
        words = [f"gamma {self.gamma:g}"] if uses_gamma(self.method, self.criterion) else []
        words += [f"normalisation {self.normalisation:g}"] if self.normalisation else []
        return ", ".join([*words, *([COMPENSATION_WORDS[self.compensation]] if self.compensation != "none" else [])])

    @property
    def label(self) -> str:
        """E.g. "taylor, same allocation, 20 %, gamma 3.36, seed 0"."""
        parts = [self.criterion, COLUMNS[self.method], f"{self.sparsity * 100:.3g} %", self.setting]
        return ", ".join([*filter(None, parts), f"seed {self.seed}"])

    def recipe(self, base: Recipe) -> Recipe:
        """The recipe of this point's run: that of the whole sweep's run with its own choices.

        One calibration set is drawn, with the point's seed, and none is chosen by KL, so that seeds are independent.
        The statistics of a compensation are drawn anew with each seed too.
        """
        kept = {name: getattr(base.calibration, name) for name in DRAWN}
        one = CalibrationChoice(candidates=1, seed=self.seed, **kept)
        drawn = base.with_values(calibration=one).change("saliency", criterion=self.criterion)
        names = ("sparsity", "gamma", "method", "normalisation")
        made = drawn.change("allocation", **{name: getattr(self, name) for name in names})
        if self.compensation == "none":
            return made.change("prune", **vars(PruneChoice()))
        return made.change("prune", compensation=self.compensation, seed=base.prune.seed + self.seed)

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"gamma": "inf" if math.isinf(self.gamma) else self.gamma}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        return cls(**{**data, "gamma": float(data["gamma"])})

    @classmethod
    def around(cls, recipe: Recipe) -> Recipe:
        """What all points of a sweep around `recipe` have in common: equal for two recipes, equal sweeps."""
        return cls(0, "random", "shared", 0.5, "least_squares", 1.0).recipe(recipe)


@dataclass(frozen=True)
class Grid:
    """Choices of which a sweep tries every combination, e.g. `Grid(criteria=("nirvana", "flap"), seeds=(0, 1, 2))`.

    Attributes:
        criteria: names from `nirvana.saliency.available()`.
        methods: "shared", the same allocation for all; "published", each criterion as its authors use it, with their
            allocation, their compensation and gamma 3.36 where there is one. Compensations, gammas and normalisations
            are of the shared allocation alone.
        sparsities: shares of the attention and MLP weights to remove.
        seeds: of the draw of the calibration set, one set a seed.
        compensations: see `nirvana.prune`.
        gammas: see `nirvana.allocate`, as for `normalisations`.
        speed: time every pruned model, in turns with the dense one.
    """

    criteria: tuple[str, ...] = ("nirvana", "taylor", "random")
    methods: tuple[str, ...] = METHODS
    sparsities: tuple[float, ...] = (0.2, 0.4)
    seeds: tuple[int, ...] = (0, 1, 2)
    compensations: tuple[str, ...] = ("none",)
    gammas: tuple[float, ...] = (PUBLISHED_GAMMA,)
    normalisations: tuple[float, ...] = (0.0,)
    speed: bool = False

    def points(self) -> list[Point]:
        """Every combination once, so ordered that neighbours share most: seed, then criterion, then sparsity.

        Where a criterion's authors publish the shared allocation, one point serves both methods.
        """
        return list(dict.fromkeys(self._points()))

    def _points(self) -> Iterator[Point]:
        for seed in self.seeds:
            for criterion in self.criteria:
                for sparsity in self.sparsities:
                    for method in METHODS:
                        if method in self.methods:
                            yield from self._ways(seed, criterion, method, sparsity)

    def _ways(self, seed: int, criterion: str, method: str, sparsity: float) -> Iterator[Point]:
        """The points of one method, the shared one first."""
        if method == "shared":
            for compensation in self.compensations:
                for gamma in self.gammas:
                    for normalisation in self.normalisations:
                        yield Point(seed, criterion, method, sparsity, compensation, gamma, normalisation)
            return
        own = find_criterion(criterion).compensation
        shared = rule_name(method, criterion) == "shared" and "shared" in self.methods
        plain = PUBLISHED_GAMMA in self.gammas and 0 in self.normalisations
        serves = shared and plain and own in self.compensations
        yield Point(seed, criterion, "shared" if serves else method, sparsity, own, PUBLISHED_GAMMA)

    def check(self) -> None:
        """Refuse what cannot be swept.

        Raises:
            RunError: a list is empty, a seed is out of range, or there are more than 400 points.
            NirvanaError: a criterion, method, sparsity, compensation or gamma is none.
        """
        for name in LISTS:
            if not getattr(self, name):
                raise RunError(f"The grid has no {name}.", "Choose at least one of each.")
        for criterion in self.criteria:
            find_criterion(criterion)
        for method in self.methods:
            check_method(method)
        for sparsity in self.sparsities:
            check_rates(sparsity, 1.0)
        for gamma in self.gammas:
            check_rates(0.5, gamma)
        for normalisation in self.normalisations:
            if not 0 <= normalisation <= 1:
                raise PlanError(f"normalisation must lie between 0 and 1, not {normalisation}.", "Use 0 for none.")
        for seed in self.seeds:
            if not 0 <= seed < SEEDS // 2:
                raise RunError(f"Seeds are whole numbers from 0 to {SEEDS // 2 - 1:,}, not {seed}.", "Change it.")
        for compensation in self.compensations:
            if compensation not in COMPENSATIONS:
                known = ", ".join(COMPENSATIONS)
                raise CompensationError(f"There is no compensation {compensation!r}.", f"Use {known}.")
        count = len(self.points())
        if count > MOST_POINTS:
            raise RunError(
                f"The grid has {count:,} points; a sweep has at most {MOST_POINTS}.",
                "Take fewer criteria, sparsities or seeds. A finished sweep can be extended afterwards.",
            )

    def to_json(self) -> dict[str, Any]:
        gammas = ["inf" if math.isinf(gamma) else gamma for gamma in self.gammas]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()} | {
            "gammas": gammas
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Grid:
        """Read a grid; what is left out takes its default, and what is there twice counts once.

        Raises:
            RunError: a value is unknown or has the wrong type.
        """
        if not isinstance(data, Mapping) or set(data) - {*LISTS, "speed"}:
            raise RunError("A grid has " + ", ".join([*LISTS, "speed"]) + ", and nothing else.", "Correct it.")
        values = {name: _tuple(name, data[name], kind) for name, kind in LISTS.items() if name in data}
        if not isinstance(data.get("speed", False), bool):
            raise RunError("speed is true or false.", "Correct it.")
        return cls(**values, speed=data.get("speed", False))


def _tuple(name: str, values: Any, kind: type) -> tuple[Any, ...]:
    wrong = RunError(
        f"{name} is a list of {'text' if kind is str else 'numbers'}, not {values!r}.", "Correct the grid."
    )
    if not isinstance(values, list | tuple):
        raise wrong
    found: list[Any] = []
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind is float and (number or value == "inf"):
            found.append(float(value))
        elif kind is not float and isinstance(value, kind) and not isinstance(value, bool):
            found.append(value)
        else:
            raise wrong
    return tuple(dict.fromkeys(found))
