"""Steps of an allocation search and their journal. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nirvana.allocation.exchanges import Exchange, exchanged
from nirvana.layout import Site
from nirvana.studies.journal import Journal

FILE = "allocation_search.jsonl"


@dataclass(frozen=True)
class SearchStep:
    """One plan of the search.

    Attributes:
        number: of the step; 0 is the plan that the search starts from.
        exchanges: differences to the best plan before.
        kl: mean KL( dense || pruned ) in nats on the probe that chooses; NaN where the step failed.
        held_out: the same of each window of the probe that does not choose; empty unless accepted.
        accepted: whether it is the best plan since.
        seconds: duration.
        failure: error of a failed step; else empty.
    """

    number: int
    exchanges: tuple[Exchange, ...] = ()
    kl: float = math.nan
    held_out: tuple[float, ...] = ()
    accepted: bool = False
    seconds: float = 0.0
    failure: str = ""

    @property
    def held_out_kl(self) -> float:
        """Mean over the windows; NaN unless accepted."""
        return fmean(self.held_out) if self.held_out else math.nan

    def to_json(self) -> dict[str, Any]:
        data = vars(self) | {"kl": None if self.kl != self.kl else self.kl}
        return data | {"exchanges": [each.to_json() for each in self.exchanges]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchStep:
        exchanges, held_out = tuple(map(Exchange.from_json, data["exchanges"])), tuple(map(float, data["held_out"]))
        kl = math.nan if data["kl"] is None else float(data["kl"])
        return cls(**{**data, "kl": kl, "exchanges": exchanges, "held_out": held_out})


def start_widths(settings: Mapping[str, Any]) -> dict[Site, int]:
    """Kept units of every site before the search."""
    return {Site.from_key(key): int(width) for key, width in settings["start"].items()}


def best_widths(start: Mapping[Site, int], steps: Sequence[SearchStep]) -> dict[Site, int]:
    """Kept units of every site after the accepted steps."""
    found = dict(start)
    for step in steps:
        if step.accepted:
            found = exchanged(found, step.exchanges)
    return found


def changed_widths(start: Mapping[Site, int], steps: Sequence[SearchStep]) -> dict[Site, int]:
    """Kept units of the sites that the accepted steps changed."""
    return {site: width for site, width in best_widths(start, steps).items() if width != start[site]}


def accepted(steps: Sequence[SearchStep]) -> list[SearchStep]:
    """The start and the accepted steps, oldest first."""
    return [step for step in steps if step.accepted]


def read_steps(folder: Path) -> tuple[dict[str, Any] | None, list[SearchStep]]:
    """Settings of the last search of a run's folder, and its steps so far; None without a search."""
    return Journal(folder / FILE).last(SearchStep.from_json)
