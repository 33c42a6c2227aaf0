"""Result of a sensitivity scan: KL for each site pruned alone. No torch, so that pages can read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nirvana.layout import Site


class Shift(NamedTuple):
    """KL( dense || pruned ) in nats per token with its standard error, and how many of the site's units went."""

    kl: float
    standard_error: float
    removed: int
    units: int


@dataclass(frozen=True, eq=False)
class Sensitivity(Mapping[Site, Shift]):
    """Site -> Shift, in model order; sites of a single unit, of which nothing can go, are absent.

    `protocol` says how it was measured: rate, criterion, samples, length, probe, device and dtype.
    """

    shifts: dict[Site, Shift]
    protocol: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, site: Site) -> Shift:
        return self.shifts[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.shifts)

    def __len__(self) -> int:
        return len(self.shifts)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "protocol": dict(self.protocol),
            "shifts": {site.key: shift._asdict() for site, shift in self.shifts.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        return cls(
            {Site.from_key(key): Shift(**shift) for key, shift in data["shifts"].items()}, dict(data["protocol"])
        )
