"""Inspections of single units: what drives them, and the norms of their weights. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from nirvana.errors import PlanError
from nirvana.files import well_formed, whole_number
from nirvana.layout import Site

MOST = 400  # inspections kept in a run; the oldest is dropped


class Excerpt(NamedTuple):
    """Part of a calibration sample around the position that drives a unit most in it.

    Attributes:
        sample: its number in the calibration set.
        start: position of the first of the tokens in the sample.
        peak: place of that position among the tokens.
        texts: the text of each token; of the tokens of one character only the last has text.
        values: the unit's driving quantity at each token; see `UnitInspection`.
    """

    sample: int
    start: int
    peak: int
    texts: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        """The driving quantity at the peak."""
        return self.values[self.peak]


class TokenMean(NamedTuple):
    """A token of the calibration text: mean size of the driving quantity over its `occurrences`."""

    text: str
    occurrences: int
    mean: float


class WeightNorm(NamedTuple):
    """Norm of a unit's part of one weight matrix, the mean norm in its module, and its place there (1 = largest)."""

    name: str
    norm: float
    mean: float
    place: int


@dataclass(frozen=True, eq=False)
class UnitInspection:
    """The tokens of the calibration text that drive one unit, and the norms of its weights.

    The driving quantity is what the unit hands to its output projection: for a neuron the input of down_proj (T5: wo)
    at it, with its sign; for a KV group the Euclidean norm of its heads' outputs, the inputs of o_proj (T5: o).

    Attributes:
        site, unit: where it is in the model.
        kind: "KV group" or "neuron".
        excerpts: the samples with the largest sizes of the driving quantity, largest first, one excerpt a sample.
        tokens: the tokens with the largest mean size, largest first.
        quantiles: of the size over all positions that count, at 0, 10 ... 100 %: 11 values.
        weights: one a weight matrix, in the order of the family's adapter.
        protocol: model, inputs (hash of the calibration set), positions, device and dtype.
    """

    site: Site
    unit: int
    kind: str
    excerpts: tuple[Excerpt, ...]
    tokens: tuple[TokenMean, ...]
    quantiles: tuple[float, ...]
    weights: tuple[WeightNorm, ...]
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def largest(self) -> float:
        """The largest size of the driving quantity."""
        return self.quantiles[-1]

    def to_json(self) -> dict[str, Any]:
        return {
            "site": self.site.key,
            "unit": self.unit,
            "kind": self.kind,
            "excerpts": [[*item[:3], list(item.texts), list(map(_rounded, item.values))] for item in self.excerpts],
            "tokens": [[text, count, _rounded(mean)] for text, count, mean in self.tokens],
            "quantiles": list(map(_rounded, self.quantiles)),
            "weights": [[name, _rounded(norm), _rounded(mean), place] for name, norm, mean, place in self.weights],
            "protocol": dict(self.protocol),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> UnitInspection:
        """Read what `to_json` wrote; `UnitInspections.from_json` validates it."""
        excerpts = []
        for sample, start, peak, texts, values in data["excerpts"]:
            numbers = whole_number(sample), whole_number(start), whole_number(peak)
            excerpts.append(Excerpt(*numbers, tuple(map(str, texts)), tuple(map(float, values))))
        return cls(
            Site.from_key(data["site"]),
            whole_number(data["unit"]),
            str(data["kind"]),
            tuple(excerpts),
            tuple(TokenMean(str(text), whole_number(count), float(mean)) for text, count, mean in data["tokens"]),
            tuple(map(float, data["quantiles"])),
            tuple(
                WeightNorm(str(name), float(norm), float(mean), whole_number(place))
                for name, norm, mean, place in data["weights"]
            ),
            dict(data["protocol"]),
        )


@dataclass(frozen=True, eq=False)
class UnitInspections:
    """Inspections of units of one model with one calibration set, oldest first."""

    items: tuple[UnitInspection, ...] = ()

    def of(self, site: Site, unit: int) -> UnitInspection | None:
        """The inspection of a unit, or None."""
        return next((item for item in self.items if (item.site, item.unit) == (site, unit)), None)

    def adding(self, new: UnitInspections) -> UnitInspections:
        """These and `new` ones, which replace earlier ones of the same units; the last few hundred."""
        replaced = {(item.site, item.unit) for item in new.items}
        kept = [item for item in self.items if (item.site, item.unit) not in replaced]
        return replace(self, items=(*kept, *new.items)[-MOST:])

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, "items": [item.to_json() for item in self.items]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> UnitInspections:
        """Read what `to_json` wrote.

        Raises:
            PlanError: it is something else.
        """
        with well_formed("These are no saved inspections of units", PlanError, "Inspect them again."):
            return cls(tuple(map(UnitInspection.from_json, data["items"])))


def _rounded(value: float) -> float:
    """To four significant digits, as a display needs."""
    return float(np.format_float_scientific(value, precision=3)) if np.isfinite(value) else float(value)
