"""Sensitivity scan: how far the predictions move when one module of one layer is pruned, and nothing else."""

from __future__ import annotations

import numpy as np
import torch

from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import PlanError
from nirvana.evaluation.divergence import dense_reference, divergence
from nirvana.evaluation.sensitivity_result import Sensitivity, Shift
from nirvana.layout import Layout, Site
from nirvana.models.lm import LM
from nirvana.models.weights import layer_places, linear_layer, output_part, unit_rows
from nirvana.progress import ProgressCallback, within
from nirvana.saliency.scores import Saliency


def sensitivity(
    lm: LM,
    saliency: Saliency,
    probe: CalibrationSet,
    *,
    rate: float = 0.2,
    progress: ProgressCallback | None = None,
) -> Sensitivity:
    """Prune each site alone by `rate` and measure KL on the probe; the other sites stay whole.

    The lowest-scored units go: `rate` of them, rounded, but at least one, and one stays. They are masked in place (the
    columns of the output projection that read them are zero for the time of one forward), so no copy is made, and
    `lm` is afterwards what it was. One forward over the probe a site.

    Args:
        saliency: scores of the units of `lm`.
        probe: windows (N, T) without padding.
        rate: share of a site's units, in (0, 1).
        progress: called after every few hundred tokens; may raise `Cancelled`.

    Raises:
        PlanError: the rate is out of range, or the scores are of a model of another shape.
        CorpusError: the probe has padding, or is for another kind of model.
        ModelError: the weights are not in memory, the probes are too long, or an output is not a number.
    """
    if not 0 < rate < 1:
        raise PlanError(f"The rate must lie between 0 and 1, not {rate}.", "Use 0.2 to prune 20 % of each site.")
    if saliency.layout.sites != lm.layout.sites:
        raise PlanError("The scores are of a model of another shape.", "Score this model.")
    counts = _counts(lm.layout, rate)
    parts = 1 + len(counts)
    reference = dense_reference(lm, probe, progress=within(progress, "Sensitivity", 0, parts))
    places, shifts = layer_places(lm.layout), {}
    blocks = lm.family.blocks(lm.weights())
    for part, (site, count) in enumerate(counts.items(), start=1):
        projection = output_part(lm, site)
        layer = blocks[site.stack][places[site.stack, site.layer]]
        weight = linear_layer(layer, projection).weight
        lowest = np.argsort(saliency[site], kind="stable")[:count]  # equal scores: the lower index goes
        columns = unit_rows(torch.from_numpy(lowest), projection.size).to(weight.device)
        with torch.no_grad():
            before = weight[:, columns].clone()
            weight[:, columns] = 0
        try:
            inner = within(progress, f"Sensitivity, {site.key}", part, parts)
            measured = divergence(lm, lm, probe, reference=reference, progress=inner)
        finally:
            with torch.no_grad():
                weight[:, columns] = before
        shifts[site] = Shift(measured.mean, measured.standard_error, count, lm.layout[site].units)
    samples, length = probe.outputs.shape
    protocol = {
        "rate": float(rate),
        "criterion": saliency.criterion,
        "samples": samples,
        "length": length,
        "probe": probe.hash,
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
    }
    return Sensitivity(shifts, protocol)


def _counts(layout: Layout, rate: float) -> dict[Site, int]:
    """How many units go from each site that has more than one."""
    return {
        site: min(max(1, round(rate * place.units)), place.units - 1)
        for site, place in layout.items()
        if place.units > 1
    }
