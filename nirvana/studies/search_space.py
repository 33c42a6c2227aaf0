"""Search space: the choices of a trial, their ranges, and the recipe of a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from nirvana.calibration.corpora.mixture import PLUS
from nirvana.compensation import METHODS as COMPENSATIONS
from nirvana.errors import RunError
from nirvana.runs.presets import PRESETS
from nirvana.runs.recipe import AllocationChoice, Recipe
from nirvana.saliency.criteria import find_criterion

CRITERIA = ("nirvana", "taylor", "second-order", "flap")
METHODS = ("shared", "measured")  # of allocation
GAMMAS = (1.0, 16.0)
SEEDS = (0, 1, 2)
MOST_PROTECTED, SHARE = 3, 8  # layers at either end: at most 3, and an eighth of all


@dataclass(frozen=True)
class Choices:
    """One point of the search.

    `first` and `last`: number of protected layers at either end. `method` of allocation: "shared", or "measured", which
    uses neither gamma nor normalisation.
    """

    criterion: str
    corpus: str
    seed: int
    gamma: float
    normalisation: float
    compensation: str
    first: int = 0
    last: int = 0
    method: str = "shared"

    @property
    def scored(self) -> tuple[str, str, int]:
        """Choices that the scores and their loss curves depend on: criterion, text and seed."""
        return self.criterion, self.corpus, self.seed

    @property
    def canonical(self) -> Choices:
        """The point with choices that have no effect at their defaults, so that equal recipes are equal points."""
        if self.method == "shared":
            return self
        return replace(self, gamma=AllocationChoice().gamma, normalisation=0.0)

    def recipe(self, base: Recipe, sparsity: float, layers: Sequence[int]) -> Recipe:
        """The recipe of this point; other choices are those of `base`.

        Args:
            layers: the model's layers in order, of which the ends are protected.
        """
        protected = sorted({*layers[: self.first], *layers[len(layers) - self.last :]})
        drawn = base.change("calibration", corpus=self.corpus, seed=self.seed, candidates=1, alternatives=())
        scored = drawn.change("saliency", criterion=self.criterion)
        allocated = scored.change(
            "allocation",
            sparsity=sparsity,
            gamma=self.gamma,
            normalisation=self.normalisation,
            protected=tuple(protected),
            method=self.method,
            widths=(),
            edits=(),
        )
        return allocated.change("prune", compensation=self.compensation)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Choices:
        return cls(**data)


@dataclass(frozen=True)
class Space:
    """Ranges of the choices: `criteria`; `corpora`, the names of texts, with their mixtures; `gammas`, from and to.

    `layers`: number of the model's layers. `methods`: of allocation, some of METHODS in their order.
    """

    criteria: tuple[str, ...]
    corpora: tuple[str, ...]
    layers: int
    gammas: tuple[float, float] = GAMMAS
    methods: tuple[str, ...] = METHODS[:1]

    @property
    def mixtures(self) -> dict[str, tuple[str, ...]]:
        """Name -> parts of a uniform mixture: each pair if there are three, then all."""
        pairs = list(combinations(self.corpora, 2)) if len(self.corpora) == 3 else []
        wanted = [*pairs, self.corpora] if len(self.corpora) > 1 else []
        return {PLUS.join(names): names for names in wanted}

    @property
    def texts(self) -> tuple[str, ...]:
        """Each text alone, then the mixtures."""
        return (*self.corpora, *self.mixtures)

    def inside(self, gamma: float) -> float:
        """The nearest gamma of the space."""
        return min(max(gamma, self.gammas[0]), self.gammas[1])

    def check(self) -> None:
        """Validate the search space.

        Raises:
            RunError: no text, criterion or allocation.
            SaliencyError: a criterion is unknown.
        """
        if not self.corpora:
            raise RunError("There is no text to calibrate on.", "Name a corpus or more.")
        if not self.criteria:
            raise RunError("There is no criterion to try.", f"Name some, e.g. {', '.join(CRITERIA)}.")
        if not self.methods:
            raise RunError("There is no allocation to try.", f"Name some, e.g. {', '.join(METHODS)}.")
        for name in self.criteria:
            find_criterion(name)

    def first(self) -> list[Choices]:
        """Points before the sampler's suggestions: the paper's recipe, and each other criterion with the benchmarks'
        best choices. The first of these follows with the measured allocation, on the same scores.
        """
        paper, good = PRESETS["paper"].recipe(), PRESETS["recommended"].recipe()
        criterion = paper.saliency.criterion if paper.saliency.criterion in self.criteria else self.criteria[0]
        published = Choices(criterion, self.corpora[0], 0, paper.allocation.gamma, 0.0, paper.prune.compensation)
        order = dict.fromkeys((good.saliency.criterion, "taylor", *self.criteria))
        others = [name for name in order if name in self.criteria and name != criterion]
        strong = [
            Choices(name, self.texts[-1], 0, self.inside(good.allocation.gamma), 0.0, good.prune.compensation)
            for name in others or [criterion]
        ]
        points = {"shared": [published, *strong], "measured": [replace(strong[0], method="measured").canonical]}
        return list(dict.fromkeys(point for method in self.methods for point in points[method]))

    def distributions(self) -> dict[str, Any]:
        """Name of a choice -> optuna's distribution of it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        most = min(MOST_PROTECTED, self.layers // SHARE)
        return {
            "criterion": CategoricalDistribution(self.criteria),
            "corpus": CategoricalDistribution(self.texts),
            "seed": CategoricalDistribution(SEEDS),
            "gamma": FloatDistribution(*self.gammas, log=True),
            "normalisation": FloatDistribution(0.0, 1.0, step=0.25),
            "compensation": CategoricalDistribution(COMPENSATIONS),
            "first": IntDistribution(0, most),
            "last": IntDistribution(0, most),
            "method": CategoricalDistribution(self.methods),
        }

    def params(self, choices: Choices) -> dict[str, Any]:
        """Values of a point in these distributions, without those that have no effect on it."""
        params = choices.to_json() | {"gamma": self.inside(choices.gamma)}
        unused = ("gamma", "normalisation") if choices.method == "measured" else ()
        return {name: value for name, value in params.items() if name not in unused}
