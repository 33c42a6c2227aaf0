"""Exchanges: a number of units that one site keeps more and another of the same kind and cost keeps less.

The mutation of a local search over plans of one budget (EvoPress, arXiv 2410.14649; Tyr-the-Pruner, arXiv 2503.09657).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nirvana.allocation.constraints import Constraints
from nirvana.layout import KV_GROUP, Site

MOST = 3  # exchanges in a step
ATTEMPTS = 32  # to draw one
FIRST_SHARE = 8  # the first quantum is this part of a site's neurons ...
HALVING = 40  # ... and is halved every so many steps


class Exchange(NamedTuple):
    """`grown` keeps `units` more, and `shrunk` as many less."""

    grown: Site
    shrunk: Site
    units: int

    def to_json(self) -> list[Any]:
        return [self.grown.key, self.shrunk.key, self.units]

    @classmethod
    def from_json(cls, data: Any) -> Exchange:
        grown, shrunk, units = data
        return cls(Site.from_key(grown), Site.from_key(shrunk), int(units))


def exchanged(widths: Mapping[Site, int], exchanges: Iterable[Exchange]) -> dict[Site, int]:
    """Site -> kept units after `exchanges`."""
    found = dict(widths)
    for grown, shrunk, units in exchanges:
        found[grown] += units
        found[shrunk] -= units
    return found


def draw_exchanges(widths: Mapping[Site, int], constraints: Constraints, step: int, seed: int) -> list[Exchange]:
    """One to three random exchanges that keep to the floors, protected sites and width multiples.

    Determined by `seed` and `step`. The number is the lower of two uniform draws. Neurons move in a quantum that halves
    every 40 steps, KV groups one at a time. Fewer exchanges, also none, are returned where no others are possible.
    """
    draw = np.random.default_rng([seed, step])
    found: list[Exchange] = []
    now = dict(widths)
    for _ in range(min(draw.integers(1, MOST + 1, 2))):
        exchange = _draw_one(now, constraints, step, draw)
        if exchange is not None:
            found.append(exchange)
            now = exchanged(now, [exchange])
    return found


def _draw_one(
    widths: Mapping[Site, int], constraints: Constraints, step: int, draw: np.random.Generator
) -> Exchange | None:
    layout = constraints.layout
    can_grow = [site for site, width in widths.items() if width < layout[site].units and _is_free(site, constraints)]
    for _ in range(ATTEMPTS if can_grow else 0):
        grown = can_grow[draw.integers(len(can_grow))]
        like = layout[grown]
        others = [
            site
            for site in widths
            if site != grown and _is_free(site, constraints) and layout[site][1:3] == (like.cost, like.kind)
        ]
        if not others:
            continue
        shrunk = others[draw.integers(len(others))]
        units = _units(grown, shrunk, widths, constraints, step)
        if units > 0:
            return Exchange(grown, shrunk, units)
    return None


def _is_free(site: Site, constraints: Constraints) -> bool:
    return site not in constraints.protected and constraints.removable[site] > 0


def _units(grown: Site, shrunk: Site, widths: Mapping[Site, int], constraints: Constraints, step: int) -> int:
    """Units to exchange, up to the quantum of the step; 0 where the sites cannot exchange."""
    layout, multiple = constraints.layout, constraints.multiple_of
    room = min(
        layout[grown].units - widths[grown],
        constraints.removable[shrunk] - (layout[shrunk].units - widths[shrunk]),
    )
    if layout[grown].kind == KV_GROUP:
        return min(room, 1)
    quantum = max(1, (layout[grown].units // FIRST_SHARE >> step // HALVING) // multiple) * multiple
    units = min(room, quantum)
    while units > 0 and not (
        _fits(widths[grown] + units, layout[grown].units, multiple)
        and _fits(widths[shrunk] - units, layout[shrunk].units, multiple)
    ):
        units -= 1
    return units


def _fits(width: int, units: int, multiple: int) -> bool:
    return width == units or width % multiple == 0
