"""Effects of removing single units, measured and predicted to first order. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from nirvana.errors import PlanError
from nirvana.files import well_formed, whole_number
from nirvana.layout import Layout, Site
from nirvana.saliency.agreement import rank_correlation


class Ablation(NamedTuple):
    """The removal of one unit.

    Attributes:
        site, unit: where it is in the model.
        kind: "KV group" or "neuron".
        score: its saliency, which predicts the size of the change.
        first_order: change of f by its gradient, -sum of W * df/dW over the unit's columns of the output projection:
            the derivative of f along the removal, since the rest of the unit acts through these columns.
        change: measured change of f.
        kl: KL( dense || without the unit ), nats per token, and its standard error over samples.
    """

    site: Site
    unit: int
    kind: str
    score: float
    first_order: float
    change: float
    kl: float
    kl_error: float

    @property
    def residual(self) -> float:
        """Measured change of f that first order does not predict."""
        return self.change - self.first_order

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"site": self.site.key}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ablation:
        numbers = {name: float(data[name]) for name in cls._fields[3:]}
        return cls(Site.from_key(data["site"]), whole_number(data["unit"]), str(data["kind"]), **numbers)


class Correlation(NamedTuple):
    """Correlations of a prediction with a measurement over n units.

    NaN below two units or without variation. `pearson_log` is of the logarithms, over units where both are positive:
    sizes range over orders of magnitude, so `pearson` is determined by the largest units.
    """

    pearson: float
    pearson_log: float
    spearman: float
    n: int


@dataclass(frozen=True, eq=False)
class Ablations:
    """Removals of single units of one model, in model order.

    f is NIRVANA's objective on the inputs: the mean over samples and vocabulary entries of the maximum over positions
    of the logits.

    Attributes:
        items: one a unit.
        protocol: model, criterion, scores, f of the dense model, samples, length and hash of the inputs, count, seed,
            device and dtype.
    """

    items: tuple[Ablation, ...]
    protocol: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(item.kind for item in self.items))

    def of_kind(self, kind: str | None = None) -> list[Ablation]:
        """The removals of one kind of unit; None: all."""
        return [item for item in self.items if kind in (None, item.kind)]

    def values(self, name: str, kind: str | None = None) -> np.ndarray:
        """float64 (n,): an attribute of the removals of one kind."""
        return np.array([getattr(item, name) for item in self.of_kind(kind)], dtype=np.float64)

    def score_and_change(self, kind: str | None = None) -> Correlation:
        """The score against |change of f|."""
        return correlation(self.values("score", kind), np.abs(self.values("change", kind)))

    def score_and_kl(self, kind: str | None = None) -> Correlation:
        """The score against KL."""
        return correlation(self.values("score", kind), self.values("kl", kind))

    def first_order_and_change(self, kind: str | None = None) -> Correlation:
        """The first-order change of f against the measured one, both with their signs."""
        return correlation(self.values("first_order", kind), self.values("change", kind))

    def first_order_size_and_kl(self, kind: str | None = None) -> Correlation:
        """The size of the first-order change of f against KL."""
        return correlation(np.abs(self.values("first_order", kind)), self.values("kl", kind))

    def wrong_signs(self, kind: str | None = None) -> float:
        """Share of units whose output f changes in the other direction than first order predicts."""
        product = self.values("first_order", kind) * self.values("change", kind)
        return float(np.mean(product < 0)) if len(product) else math.nan

    def worst(self, count: int = 10, kind: str | None = None) -> list[Ablation]:
        """The units whose change of f first order misses by most."""
        return sorted(self.of_kind(kind), key=lambda item: -abs(item.residual))[:count]

    def underrated(self, count: int = 10, kind: str | None = None) -> list[Ablation]:
        """The units whose KL ranks highest above their score, within the kind: removed early, at a high cost."""
        gaps: list[tuple[float, Ablation]] = []
        for name in self.kinds if kind is None else [kind]:
            items = self.of_kind(name)
            kl, score = (np.argsort(np.argsort(self.values(key, name))) for key in ("kl", "score"))
            gaps += zip((kl - score) / max(1, len(items) - 1), items, strict=True)
        return [item for _, item in sorted(gaps, key=lambda gap: -gap[0])[:count]]

    def errors(self) -> dict[Site, float]:
        """Site -> sum of |change - first order| over sum of |change|: 0 where first order is exact, 1 where it predicts
        no better than no change. Sites without a change are absent.
        """
        found = {}
        for site in dict.fromkeys(item.site for item in self.items):
            here = [item for item in self.items if item.site == site]
            size = sum(abs(item.change) for item in here)
            if size:
                found[site] = sum(abs(item.residual) for item in here) / size
        return found

    def of(self, site: Site, unit: int) -> Ablation | None:
        """The removal of a unit, or None."""
        return next((item for item in self.items if (item.site, item.unit) == (site, unit)), None)

    def adding(self, new: Ablations) -> Ablations:
        """These removals and `new` ones, which replace those of the same units; only `new` ones if the protocols
        differ.
        """
        if self.protocol != new.protocol:
            return new
        replaced = {(item.site, item.unit) for item in new.items}
        kept = [item for item in self.items if (item.site, item.unit) not in replaced]
        return Ablations((*kept, *new.items), dict(new.protocol))

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, "protocol": dict(self.protocol), "items": [item.to_json() for item in self.items]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ablations:
        """Read what `to_json` wrote.

        Raises:
            PlanError: it is something else.
        """
        with well_formed("These are no saved ablations", PlanError, "Measure them again."):
            return cls(tuple(map(Ablation.from_json, data["items"])), dict(data["protocol"]))


def in_model_order(layout: Layout, units: Iterable[tuple[Site, int]]) -> list[tuple[Site, int]]:
    """Units of a model in its order, each once.

    Raises:
        PlanError: there is no such unit.
    """
    wanted, order = set(units), {site: number for number, site in enumerate(layout)}
    for site, unit in wanted:
        if site not in layout:
            raise PlanError(f"The model has no module {site.key}.", "Name one such as decoder.0.mlp.")
        if not 0 <= unit < layout[site].units:
            raise PlanError(f"{site.key} has no unit {unit}.", f"Name one from 0 to {layout[site].units - 1}.")
    return sorted(wanted, key=lambda each: (order[each[0]], each[1]))


def correlation(predicted: np.ndarray, measured: np.ndarray) -> Correlation:
    """Correlations of two arrays (n,)."""
    positive = (predicted > 0) & (measured > 0)
    logs = _pearson(np.log(predicted[positive]), np.log(measured[positive]))
    spearman = rank_correlation(predicted, measured) if len(predicted) > 1 else math.nan
    return Correlation(_pearson(predicted, measured), logs, spearman, len(predicted))


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(one, other)[0, 1])
