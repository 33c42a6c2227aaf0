"""The rest of a budget in time or bytes, which a rule that counts parameters leaves: neurons, lowest scores first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nirvana.allocation import equal_widths
from nirvana.allocation.blocks import spend_in_blocks
from nirvana.allocation.budgets import spent
from nirvana.allocation.constraints import Constraints, lowest_go
from nirvana.layout import KV_GROUP, NEURON, Site
from nirvana.saliency.scores import Saliency

Kept = dict[Site, np.ndarray]


def fill_blocks(saliency: Saliency, constraints: Constraints, removed: Mapping[Site, int], amount: float) -> Kept:
    """Site -> kept units when whole blocks of neurons are added to `removed`, within `amount` in all."""
    neurons = {site: removed[site] for site in constraints.layout.pool(NEURON)}
    others = {site: count for site, count in removed.items() if site not in neurons}
    left = amount - spent(constraints.budget, constraints.layout, others)
    return lowest_go(saliency, others | spend_in_blocks(saliency, constraints, neurons, left))


def fill_widths(saliency: Saliency, constraints: Constraints, removed: Mapping[Site, int], amount: float) -> Kept:
    """Site -> kept units with equal widths: the KV groups of `removed`, and the lowest width within `amount`."""
    layout = constraints.layout
    groups = min((layout[site].units - removed[site] for site in layout.pool(KV_GROUP)), default=0)
    found = equal_widths.spend(constraints, amount, groups)
    return equal_widths.keep_alike(saliency, dict(removed) if found is None else found)
