"""Made-up cost tables and loss curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nirvana.costs import CostTable, SizeCosts
from nirvana.layout import KV_GROUP, Layout, Site
from nirvana.loss_curves import Sensitivity, Shift
from nirvana.saliency.scores import Saliency

PROTOCOL: dict[str, Any] = {
    "unit": "seconds",
    "phase": "prefill",
    "batch": 1,
    "length": 128,
    "device": "cpu (x86_64)",
    "threads": 2,
    "dtype": "float32",
    "repeats": 9,
    "spread": 0.1,
}


def linear(layout: Layout, *, group: float = 1e-3, neuron: float = 1e-5, **protocol: Any) -> CostTable:
    """Costs proportional to the units: seconds of a KV group and of a neuron."""
    modules = {}
    for site, place in layout.items():
        each = group if place.kind == KV_GROUP else neuron
        modules[site.stack, site.module] = SizeCosts((1, place.units), (each, each * place.units), place.cost)
    return CostTable(modules, dict.fromkeys(layout.stacks, 2e-4), 5e-3, PROTOCOL | protocol)


def stepped(layout: Layout, seed: int) -> CostTable:
    """Random costs with steps and plateaus, at every number of units."""
    draw, modules = np.random.default_rng(seed), {}
    for site, place in layout.items():
        rises = draw.integers(0, 4, place.units) * draw.random(place.units)
        costs = np.cumsum(rises) + 0.1
        modules[site.stack, site.module] = SizeCosts(
            tuple(range(1, place.units + 1)), tuple(costs.tolist()), place.cost
        )
    return CostTable(modules, protocol=PROTOCOL)


def scored(layout: Layout, seed: int = 0) -> Saliency:
    """Random scores."""
    draw = np.random.default_rng(seed)
    return Saliency({s: draw.random(p.units, np.float32) for s, p in layout.items()}, layout, "random")


def curves_of(saliency: Saliency, kl: Mapping[Site, list[float]]) -> Sensitivity:
    """Loss curves that are measured at every number of units."""
    points = {
        site: tuple(Shift(value, 0.0, count, saliency.layout[site].units) for count, value in enumerate(values, 1))
        for site, values in kl.items()
    }
    return Sensitivity(points, {"scores": saliency.hash})


def convex_curves(saliency: Saliency, seed: int) -> Sensitivity:
    """Random convex curves."""
    draw = np.random.default_rng(seed)
    layout = saliency.layout
    return curves_of(saliency, {s: np.cumsum(np.sort(draw.random(p.units - 1))).tolist() for s, p in layout.items()})


def quadratic_curves(saliency: Saliency) -> Sensitivity:
    """KL by the square of the removed share, the same for all modules."""
    layout = saliency.layout
    kl = {site: (np.arange(1, place.units) ** 2 / place.units**2).tolist() for site, place in layout.items()}
    return curves_of(saliency, kl)
