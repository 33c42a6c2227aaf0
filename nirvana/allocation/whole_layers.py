"""Whole layers are removed, the lowest-scored first (as published for ShortGPT, arXiv 2403.03853)."""

from __future__ import annotations

import numpy as np

from nirvana.allocation.constraints import Chosen, Constraints, out_of_reach
from nirvana.errors import PlanError
from nirvana.layout import Layout, Site
from nirvana.saliency.scores import Saliency

Layer = tuple[str, int]


def choose(saliency: Saliency, constraints: Constraints, sparsity: float) -> Chosen:
    """Remove layers in ascending order of score, each if it fits into the budget; at least one layer stays.

    A layer's score is the mean of its units' scores, each module counting once. Equal scores: the lower layer first.

    Raises:
        PlanError: the model has an encoder, or the sparsity is out of reach; the reachable maximum is named.
    """
    layout, limit = constraints.layout, reachable(constraints)
    budget = constraints.parameter_budget(sparsity)
    candidates = _candidates(constraints)
    if budget > max(_room(constraints), 0):
        raise out_of_reach(sparsity, limit)
    members = {layer: _sites(layout, layer) for layer in candidates}
    scores = {
        layer: float(np.mean([saliency[site].mean(dtype=np.float64) for site in sites]))
        for layer, sites in members.items()
    }
    left, gone = budget, set[Layer]()
    for layer in sorted(candidates, key=lambda layer: (scores[layer], layer)):
        size = sum(layout[site].parameters for site in members[layer])
        if size <= left and len(gone) + 1 < _count(layout):
            gone.add(layer)
            left -= size
    kept = {site: np.arange(place.units) for site, place in layout.items() if (site.stack, site.layer) not in gone}
    return Chosen(kept, _notes(constraints, sorted(gone), budget - left), tuple(sorted(gone)))


def reachable(constraints: Constraints) -> float:
    """The highest sparsity that `choose` accepts.

    Raises:
        PlanError: the model has an encoder.
    """
    layout = constraints.layout
    if len(layout.stacks) > 1:
        raise PlanError(
            "Removing whole layers is defined for decoders, and this model has an encoder too.",
            "Use the shared allocation, or another criterion.",
        )
    return max(_room(constraints), 0) / layout.prunable


def _candidates(constraints: Constraints) -> list[Layer]:
    held = {(site.stack, site.layer) for site in constraints.protected}
    return [layer for layer in dict.fromkeys((s.stack, s.layer) for s in constraints.layout) if layer not in held]


def _room(constraints: Constraints) -> int:
    """Parameters of all removable layers; where none is protected, the smallest stays."""
    layout = constraints.layout
    sizes = [sum(layout[site].parameters for site in _sites(layout, layer)) for layer in _candidates(constraints)]
    return sum(sizes) - (min(sizes) if len(sizes) == _count(layout) else 0)


def _count(layout: Layout) -> int:
    return len({(site.stack, site.layer) for site in layout})


def _sites(layout: Layout, layer: Layer) -> list[Site]:
    return [site for site in layout if (site.stack, site.layer) == layer]


def _notes(constraints: Constraints, gone: list[Layer], removed: int) -> tuple[str, ...]:
    notes = []
    if gone:
        names = ", ".join(str(layer) for _, layer in gone)
        each = removed / constraints.layout.prunable / len(gone)
        notes.append(f"Removed layers: {names}. Sparsity moves in steps of one layer, {each:.2%} of the weights.")
    else:
        notes.append("The budget is smaller than one layer: nothing is removed.")
    if constraints.protected:
        layers = sorted({site.layer for site in constraints.protected})
        notes.append(f"Protected: layer {', '.join(map(str, layers))}. They count in the target.")
    return tuple(notes)
