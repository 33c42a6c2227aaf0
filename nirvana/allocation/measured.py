"""The measured allocation: units with the least KL by measured loss curves are removed.

A knapsack over the lower convex hulls of the curves: KV groups and blocks of neurons of all sites are removed in the
order of their KL per parameter, or per second of a measured time, until the budget is spent (as in ZipLM,
arXiv 2302.04089, whose dynamic programme is exact for any curve; over convex ones the greedy order is optimal, up to
the last block). It balances attention against MLP, and layers against each other, with no gamma.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np

from nirvana.allocation import equal_widths
from nirvana.allocation.constraints import (
    Chosen,
    Constraints,
    general_notes,
    lowest_go,
    out_of_reach,
    parameters,
)
from nirvana.errors import PlanError
from nirvana.layout import KV_GROUP, NEURON, Layout, Site
from nirvana.loss_curves import Curve, Sensitivity
from nirvana.saliency.scores import Saliency

MOST_GROWTH = 1e6  # of a curve beyond its last point
REST = 10.0  # highest price of the rest of a budget in time, over that of the first removal that does not fit


def choose(saliency: Saliency, constraints: Constraints, sparsity: float) -> Chosen:
    """Remove the KV groups and blocks of neurons with the least measured KL per parameter, or per byte or second of
    another budget, lowest-scored units first.

    Raises:
        PlanError: the sparsity is out of reach, or the curves are missing or of other scores.
    """
    curves = _curves(saliency, constraints)
    amount = constraints.affordable(sparsity)
    spend = _by_time if constraints.slack else _in_order
    removed = spend(curves, constraints, amount)
    return Chosen(lowest_go(saliency, removed), _notes(curves, constraints, removed))


def choose_equal(saliency: Saliency, constraints: Constraints, sparsity: float) -> Chosen:
    """Equal widths: of all pairs of KV groups and MLP width that spend the budget, the one with the least measured KL.

    Raises:
        PlanError: the sparsity is out of reach, layers are protected, or the curves are missing or of other scores.
    """
    curves = _curves(saliency, constraints)
    room, budget = equal_widths.room(constraints), constraints.amount(sparsity)
    if budget > room + constraints.slack:
        raise out_of_reach(sparsity, equal_widths.all_room(constraints))
    counts = equal_widths.group_counts(constraints.layout) or [0]
    spent = [equal_widths.spend(constraints, budget, groups) for groups in counts]
    options = [option for option in spent if option is not None]
    if not options:
        raise equal_widths.unequal_before()
    removed = min(options, key=lambda option: predicted(curves, option))
    kept = equal_widths.keep_alike(saliency, removed)
    return Chosen(kept, _notes(curves, constraints, removed))


def predicted(curves: Sensitivity, removed: Mapping[Site, int] | Mapping[Site, float]) -> float:
    """Sum of the curves' KL in nats, of each site pruned alone."""
    return float(sum(np.interp(removed.get(site, 0), *_hull(curve)) for site, curve in curves.items()))


def _curves(saliency: Saliency, constraints: Constraints) -> Sensitivity:
    curves, how = constraints.curves, "Measure them with nirvana.sensitivity(lm, saliency, probe, levels=...)."
    if curves is None:
        raise PlanError("The measured allocation needs loss curves.", how)
    if curves.protocol.get("scores", saliency.hash) != saliency.hash:
        raise PlanError("The loss curves were measured with other scores.", how)
    for site, place in constraints.layout.items():
        curve = curves.get(site)
        if place.units > 1 and (not curve or curve[-1].units != place.units):
            raise PlanError(f"The loss curves do not fit {site.key}.", how)
    return curves


def _hull(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (units removed, KL) of the lower convex hull of a curve from the origin to all units, KL never falling.

    Beyond its last point a curve grows by the factor of its last step, or else quadratically.
    """
    points = [(0.0, 0.0)]
    for point in curve:
        points.append((float(point.removed), max(point.kl, points[-1][1])))
    (before, low), (last, high), end = points[-2], points[-1], float(curve[-1].units)
    if last < end:
        growth = (high / low) ** ((end - last) / (last - before)) if low > 0 else (end / last) ** 2
        points.append((end, high * min(max(growth, end / last), MOST_GROWTH)))
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    removed, kl = np.array(hull).T
    return removed, kl


def _slope(one: tuple[float, float], two: tuple[float, float]) -> float:
    return (two[1] - one[1]) / (two[0] - one[0])


def _in_order(curves: Sensitivity, constraints: Constraints, left: float) -> dict[Site, int]:
    """Units to remove at each site: the blocks in their order, each if it fits."""
    layout, removed, closed = constraints.layout, dict.fromkeys(constraints.layout, 0), set[Site]()
    for site, size in _blocks(curves, constraints):
        cost = size * layout[site].cost
        if site in closed:
            continue
        if cost > left:
            closed.add(site)  # its later blocks come after this one
            continue
        removed[site] += size
        left -= cost
    return removed


def _blocks(curves: Sensitivity, constraints: Constraints) -> list[tuple[Site, int]]:
    """(site, units) of every removable block, in the order of measured KL per parameter. Blocks beyond the highest
    level of their curve, whose KL is extrapolated, follow all measured ones.
    """
    entries = []
    for order, (site, curve) in enumerate(curves.items()):
        ends = _ends(site, constraints)
        sizes = np.diff(ends, prepend=0)
        price = np.diff(np.interp(ends, *_hull(curve)), prepend=0) / (sizes * constraints.layout[site].cost)
        price = np.maximum.accumulate(price)  # rounding must not reorder the blocks of a site
        beyond = ends > curve[-1].removed
        entries += [
            (bool(out), float(each), order, index, site, int(size))
            for index, (out, each, size) in enumerate(zip(beyond, price, sizes, strict=True))
        ]
    entries.sort(key=lambda entry: entry[:4])
    return [(site, size) for *_, site, size in entries]


class _Path:
    """Numbers of units that can be removed at a site, with the amounts that they save and their KL, ascending."""

    def __init__(self, site: Site, curve: Curve, constraints: Constraints) -> None:
        self.ends = np.append(0, _ends(site, constraints))
        self.saved = constraints.budget.saved(constraints.layout, site, self.ends)
        self.kl = np.interp(self.ends, *_hull(curve))
        self.beyond = self.ends > curve[-1].removed
        self.at = 0

    def next(self, left: float) -> tuple[bool, float, int] | None:
        """The further removal with the least KL per amount saved within `left`: whether it is beyond the measured
        levels, its price, and its index. Measured times have steps, so it may be several blocks; None without any.
        """
        gain = self.saved[self.at + 1 :] - self.saved[self.at]
        fitting = np.flatnonzero((gain > 0) & (gain <= left))
        if not fitting.size:
            return None
        index = fitting + self.at + 1
        measured = index[~self.beyond[index]]
        index = measured if measured.size else index
        prices = (self.kl[index] - self.kl[self.at]) / (self.saved[index] - self.saved[self.at])
        best = int(index[np.flatnonzero(prices <= prices.min() * (1 + 1e-12))[-1]])
        return bool(self.beyond[best]), float(prices.min()), best


def _by_time(curves: Sensitivity, constraints: Constraints, amount: float) -> dict[Site, int]:
    """Units to remove at each site where the amounts that they save have steps: again and again the removal with the
    least KL per amount, of all sites and of all numbers of units that fit.

    The rest of the budget is not spent at more than ten times the price of the first removal that does not fit.
    """
    paths = {site: _Path(site, curve, constraints) for site, curve in curves.items()}
    left, most = amount + constraints.slack, (True, np.inf)
    heap: list[tuple[tuple[bool, float], int, Site, int]] = []

    def push(order: int, site: Site, room: float) -> None:
        found = paths[site].next(room)
        if found is not None:
            heapq.heappush(heap, (found[:2], order, site, found[2]))

    for order, site in enumerate(paths):
        push(order, site, np.inf)
    while heap and heap[0][0] <= most:
        (beyond, price), order, site, index = heapq.heappop(heap)
        path = paths[site]
        gain = float(path.saved[index] - path.saved[path.at])
        if gain > left:
            most = min(most, (beyond, REST * price))
            push(order, site, left)
            continue
        path.at = index
        left -= gain
        push(order, site, np.inf if most[1] == np.inf else left)
    gone = {site: int(path.ends[path.at]) for site, path in paths.items()}
    return dict.fromkeys(constraints.layout, 0) | gone


def _ends(site: Site, constraints: Constraints) -> np.ndarray:
    """Units removed after one block, two, ...: KV groups one by one, neurons down to each lower multiple."""
    most = constraints.removable[site]
    if constraints.layout[site].kind == KV_GROUP:
        return np.arange(1, most + 1)
    ends, gone = [], 0
    while gone < most:
        gone += constraints.block(site, gone)
        ends.append(gone)
    return np.array(ends, int)


def _notes(curves: Sensitivity, constraints: Constraints, removed: Mapping[Site, int]) -> tuple[str, ...]:
    """The resulting balance of attention and MLP, and the sum of the curves within their levels."""
    layout, notes = constraints.layout, []
    rates = {kind: _rate(layout, kind, removed) for kind in (KV_GROUP, NEURON)}
    if rates[KV_GROUP] > 0:
        notes.append(
            f"Attention loses {rates[KV_GROUP]:.1%} and the MLP {rates[NEURON]:.1%}, as with a gamma of "
            f"{rates[NEURON] / rates[KV_GROUP]:.3g}."
        )
    elif rates[NEURON] > 0:
        notes.append("No attention is removed, as with a gamma of inf.")
    beyond = [site.key for site, curve in curves.items() if removed.get(site, 0) > curve[-1].removed]
    if beyond:
        notes.append(f"Beyond the highest measured level: {', '.join(beyond)}.")
    return (*notes, *general_notes(constraints, removed))


def _rate(layout: Layout, kind: str, removed: Mapping[Site, int]) -> float:
    pool = {site: removed.get(site, 0) for site in layout.pool(kind)}
    return parameters(layout, pool) / layout.pool_parameters(kind) if pool else 0.0
