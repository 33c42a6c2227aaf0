"""Removal of neurons in blocks: widths are rounded up to a multiple, then the cheapest blocks are removed."""

from __future__ import annotations

import heapq

import numpy as np

from nirvana.allocation.constraints import Constraints
from nirvana.layout import Site
from nirvana.saliency.scores import Saliency


def spend_in_blocks(
    saliency: Saliency, constraints: Constraints, removed: dict[Site, int], budget: float
) -> dict[Site, int]:
    """Neurons that each MLP loses for at most `budget` of the constraints' budget, with widths at multiples.

    Each width after `removed` is rounded up, which keeps the best-scored of those neurons. Then, over all layers, the
    block with the lowest summed score is removed (ties: lower layer), until one would exceed the budget.

    Args:
        removed: site -> neurons to remove before rounding, within the budget.
    """
    rounded = {site: constraints.most_neurons(site, count) for site, count in removed.items()}
    left = budget + constraints.slack - sum(constraints.saved(site, count) for site, count in rounded.items())

    def entry(order: int, site: Site) -> tuple[float, int, Site]:
        start = rounded[site]
        block = saliency.sorted_scores[site][start : start + constraints.block(site, start)]
        return float(block.sum(dtype=np.float64)), order, site

    heap = [entry(order, site) for order, site in enumerate(rounded) if rounded[site] < constraints.removable[site]]
    heapq.heapify(heap)
    while heap:
        _, order, site = heapq.heappop(heap)
        size = constraints.block(site, rounded[site])
        cost = constraints.saved(site, rounded[site] + size) - constraints.saved(site, rounded[site])
        if cost > left:
            break
        if not cost:  # measured times have steps, and a phase may not run the module
            continue
        rounded[site] += size
        left -= cost
        if rounded[site] < constraints.removable[site]:
            heapq.heappush(heap, entry(order, site))
    return rounded
