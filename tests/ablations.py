"""Made-up removals of single units, and a made-up kernel study, in the shape of a small Llama."""

from __future__ import annotations

import numpy as np

from nirvana.evaluation.ablation_results import Ablation, Ablations
from nirvana.evaluation.kernel_results import KernelShift
from nirvana.layout import KV_GROUP, NEURON, Site
from nirvana.studies.kernel_rows import KernelRow, KernelStudy
from nirvana.studies.sweep_grid import Point

SETTINGS = {
    "recipe": {"calibration": {"samples": 4, "length": 16}},
    "inputs": {"samples": 3, "length": 16, "hash": "ab"},
}


def ablations(rough: bool = True) -> Ablations:
    """KV groups and neurons of three layers; first order is exact for neurons, and for KV groups unless `rough`."""
    draw = np.random.default_rng(1)
    items = []
    for layer in range(3):
        for unit in range(12):
            first = float(draw.normal())
            change = first * float(draw.normal()) if rough else first * 1.01
            site = Site("decoder", layer, "attention")
            items.append(Ablation(site, unit, KV_GROUP, abs(first), first, change, abs(first) ** 2, 0.1))
            items.append(
                Ablation(Site("decoder", layer, "mlp"), unit, NEURON, abs(first), first, 1.02 * first, first**2, 0.1)
            )
    return Ablations(tuple(items), {"output": 1.0, "samples": 2, "length": 8, "criterion": "nirvana"})


def study_of_kernel(power: float = 1.8) -> KernelStudy:
    """Shifts whose remaining change is eps ** power, and whose lost mass is 7 eps."""
    rows = []
    for scale, criterion in ((1.0, "nirvana"), (3.0, "random")):
        for sparsity in (0.1, 0.2, 0.4):
            eps = scale * sparsity * np.array([100.0, 150.0, 220.0])
            dense, lost = np.full(3, 1e4), 7 * eps
            pruned = dense - lost + eps**power
            shift = KernelShift(dense, pruned, lost, eps, np.ones(3), np.ones(3) * 1.1, {"sparsity": sparsity})
            rows.append(KernelRow(Point(0, criterion, "shared", sparsity, "none", 4.0), shift))
    return KernelStudy(tuple(rows), SETTINGS)
