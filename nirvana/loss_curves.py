"""Loss curves: KL of each site pruned alone, at several levels. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from nirvana.errors import PlanError
from nirvana.files import json_hash, parse_json, well_formed, whole_number
from nirvana.layout import Layout, Site

PROBE = (4, 512)  # windows and tokens of the probe that an allocation's curves are measured on
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)  # of a loss curve (ZipLM, arXiv 2302.04089, measures such curves by site)


class Shift(NamedTuple):
    """KL( dense || pruned ) in nats per token, its standard error over probes, and units removed of a site's units."""

    kl: float
    standard_error: float
    removed: int
    units: int


Curve = tuple[Shift, ...]


@dataclass(frozen=True, eq=False)
class Sensitivity(Mapping[Site, Curve]):
    """Site -> its loss curve, fewest units removed first, in model order; sites of a single unit are absent.

    `protocol`: levels, criterion, hashes of model, scores and statistics, compensation, samples, length, probe,
    device and dtype.
    """

    curves: Mapping[Site, Curve]
    protocol: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, site: Site) -> Curve:
        return self.curves[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.curves)

    def __len__(self) -> int:
        return len(self.curves)

    @property
    def levels(self) -> tuple[float, ...]:
        """Shares of a site's units that were removed, ascending."""
        return tuple(self.protocol.get("levels", ()))

    @cached_property
    def hash(self) -> str:
        return json_hash(self.to_json())

    def at(self, level: float) -> dict[Site, Shift]:
        """Site -> the point of its curve that is nearest to a level."""
        return {
            site: min(curve, key=lambda point: abs(point.removed - removed_at(level, point.units)))
            for site, curve in self.curves.items()
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 2,
            "protocol": dict(self.protocol),
            "curves": {site.key: [list(point) for point in curve] for site, curve in self.curves.items()},
        }

    def to_bytes(self) -> bytes:
        return json.dumps(self.to_json()).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Sensitivity:
        """Read what `to_bytes` wrote.

        Raises:
            PlanError: it is something else.
        """
        with well_formed("These are no saved loss curves", PlanError, "Measure them again."):
            return cls.from_json(parse_json(content))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """Read what `to_json` wrote, also in older versions with one level.

        Raises:
            PlanError: it is something else.
        """
        with well_formed("These are no saved loss curves", PlanError, "Measure them again."):
            protocol = dict(data["protocol"])
            if data.get("version") == 1:
                protocol["levels"] = [protocol.pop("rate")]
                curves = {key: [[shift[name] for name in Shift._fields]] for key, shift in data["shifts"].items()}
            else:
                curves = data["curves"]
            return cls({Site.from_key(key): tuple(map(_point, curve)) for key, curve in curves.items()}, protocol)


def removed_at(level: float, units: int) -> int:
    """Units of a site's `units` that a level removes: rounded, at least one and not all."""
    return min(max(1, round(level * units)), units - 1)


def removed_counts(layout: Layout, levels: tuple[float, ...]) -> dict[Site, list[int]]:
    """Site -> the different numbers of units that `levels` remove, ascending; sites of a single unit are absent.

    Raises:
        PlanError: there is no level, or one is out of range.
    """
    for level in levels:
        if not 0 < level < 1:
            raise PlanError(f"A level must lie between 0 and 1, not {level}.", "Use 0.2 to prune 20 % of each site.")
    if not levels:
        raise PlanError("A loss curve needs a level.", "Use 0.2 to prune 20 % of each site.")
    return {
        site: sorted({removed_at(level, place.units) for level in levels})
        for site, place in layout.items()
        if place.units > 1
    }


def _point(values: Any) -> Shift:
    kl, error, removed, units = values
    units = whole_number(units)
    removed = whole_number(removed, units)
    return Shift(float(kl), float(error), removed, units)
