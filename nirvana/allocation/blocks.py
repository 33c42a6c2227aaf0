"""Neurons go in blocks: widths are rounded up to a multiple, then the cheapest blocks go while the budget lasts."""

from __future__ import annotations

import heapq

import numpy as np

from nirvana.allocation.constraints import Constraints
from nirvana.layout import Site
from nirvana.saliency.scores import Saliency


def spend_in_blocks(
    saliency: Saliency, constraints: Constraints, removed: dict[Site, int], budget: int
) -> dict[Site, int]:
    """Neurons that each MLP loses for at most `budget` parameters, widths kept at multiples.

    Each width that `removed` leaves is rounded up, which spares the best-scored of those that would go. Then, over all
    layers, the block with the lowest summed score goes (ties: lower layer), until one would overshoot.

    Args:
        removed: site -> neurons that would go without rounding, their cost within the budget.
    """
    layout = constraints.layout
    rounded = {site: constraints.most_neurons(site, count) for site, count in removed.items()}
    left = budget - sum(count * layout[site].cost for site, count in rounded.items())

    def entry(order: int, site: Site) -> tuple[float, int, Site]:
        start = rounded[site]
        block = saliency.sorted_scores[site][start : start + constraints.block(site, start)]
        return float(block.sum(dtype=np.float64)), order, site

    heap = [entry(order, site) for order, site in enumerate(rounded) if rounded[site] < constraints.removable[site]]
    heapq.heapify(heap)
    while heap:
        _, order, site = heapq.heappop(heap)
        size = constraints.block(site, rounded[site])
        if size * layout[site].cost > left:
            break
        rounded[site] += size
        left -= size * layout[site].cost
        if rounded[site] < constraints.removable[site]:
            heapq.heappush(heap, entry(order, site))
    return rounded
