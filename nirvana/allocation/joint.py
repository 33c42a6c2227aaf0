"""KV groups and neurons in one ranking over all layers, for comparable scores (as published for FLAP).

FLAP (arXiv 2312.11983), AL-AM: each unit counts its own parameters, so a head counts as many neurons as it has weights.
No gamma.
"""

from __future__ import annotations

import numpy as np

from nirvana.allocation.blocks import spend_in_blocks
from nirvana.allocation.constraints import Chosen, Constraints, general_notes, lowest_go, parameters
from nirvana.layout import KV_GROUP, NEURON
from nirvana.saliency.scores import Saliency, rank_ascending


def choose(saliency: Saliency, constraints: Constraints, sparsity: float) -> Chosen:
    """Remove units in ascending order of score until the next would exceed the budget, then round widths to multiples.

    Equal scores are removed in model order. The budget freed by rounding up is spent in whole blocks of neurons.

    Raises:
        PlanError: the sparsity is out of reach; the reachable maximum is named.
    """
    layout, removable = constraints.layout, constraints.removable
    budget = int(constraints.affordable(sparsity))
    sites = [site for site in layout if removable[site]]
    values = np.concatenate([saliency.sorted_scores[site][: removable[site]] for site in sites])
    owner = np.repeat(np.arange(len(sites)), [removable[site] for site in sites])
    order = np.empty(len(values), np.int64)
    order[rank_ascending(values)] = np.arange(len(values))
    costs = np.array([layout[site].cost for site in sites], np.int64)[owner[order]]
    going = owner[order[: int(np.searchsorted(np.cumsum(costs), budget, side="right"))]]
    counts = np.bincount(going, minlength=len(sites))
    taken = {site: int(count) for site, count in zip(sites, counts, strict=True)}
    removed = {site: taken.get(site, 0) for site in layout.pool(KV_GROUP)}
    neurons = {site: taken.get(site, 0) for site in layout.pool(NEURON)}
    removed |= spend_in_blocks(saliency, constraints, neurons, budget - parameters(layout, removed))
    note = "KV groups and neurons of all layers in one ranking, each counting its own parameters; gamma is not used."
    return Chosen(lowest_go(saliency, removed), (note, *general_notes(constraints, removed)))
