"""Inspection of single units: the tokens of a text that drive them most, and the norms of their weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.errors import PlanError
from nirvana.evaluation.ablation_results import in_model_order
from nirvana.evaluation.continuation import token_texts
from nirvana.evaluation.unit_inspection_results import (
    Excerpt,
    TokenMean,
    UnitInspection,
    UnitInspections,
    WeightNorm,
)
from nirvana.forward.projections import visit_inputs
from nirvana.layout import NEURON, Site
from nirvana.models.lm import LM
from nirvana.models.weights import linear_layer, output_part
from nirvana.progress import ProgressCallback
from nirvana.saliency.units import add_unit_sums

EXCERPTS, TOKENS = 8, 12
BEFORE, AFTER = 20, 8  # tokens of an excerpt around its peak


def inspect_units(
    lm: LM,
    calibration: CalibrationSet | CalibrationSelection,
    units: Iterable[tuple[Site, int]],
    *,
    excerpts: int = EXCERPTS,
    progress: ProgressCallback | None = None,
) -> UnitInspections:
    """Find what drives units most in a calibration set; one forward pass for all of them, without gradients.

    See `UnitInspection` for the driving quantity. Ties keep the earlier position.

    Args:
        units: (site, unit) of `lm`; the result is in model order.
        excerpts: of each unit, at most one a sample.
        progress: called after each module of each batch; may raise `Cancelled`.

    Raises:
        PlanError: there is no such unit, or none is named.
        SaliencyError: the calibration set does not suit the model.
        ModelError: the weights are not in memory.
    """
    wanted = in_model_order(lm.layout, units)
    if not wanted:
        raise PlanError("There is no unit to inspect.", "Name one or more.")
    x = calibration.calibration if isinstance(calibration, CalibrationSelection) else calibration
    values: dict[tuple[Site, int], list[np.ndarray]] = {each: [] for each in wanted}

    def visit(site: Site, inputs: torch.Tensor) -> None:
        size = output_part(lm, site).size
        for place, unit in wanted:
            if place == site:
                driven = inputs[:, unit * size : (unit + 1) * size]
                one = driven[:, 0] if lm.layout[site].kind == NEURON else driven.norm(dim=1)
                values[site, unit].append(one.cpu().numpy().astype(np.float64))

    sites = list(dict.fromkeys(site for site, _ in wanted))
    visit_inputs(lm, [x], visit, sites=sites, stage="Reading", progress=progress)
    norms = {site: _norms(lm, site) for site in sites}
    protocol = {"model": lm.hash, "inputs": x.hash, "device": str(lm.device)}
    protocol["dtype"] = str(lm.dtype).removeprefix("torch.")
    found = []
    for site, unit in wanted:
        text = _Text(lm, x, site.stack)
        one = np.concatenate(values[site, unit])
        found.append(
            UnitInspection(
                site,
                unit,
                lm.layout[site].kind,
                text.excerpts(one, excerpts),
                text.means(one),
                tuple(np.quantile(np.abs(one), np.linspace(0, 1, 11)).tolist()),
                tuple(_norm_of(name, each, unit) for name, each in norms[site].items()),
                protocol | {"positions": len(one), "samples": x.samples},
            )
        )
    return UnitInspections(tuple(found))


class _Text:
    """The tokens of one stack of a calibration set, and where its positions that count are.

    Positions are numbered as `visit_inputs` visits them: those that count, sample by sample.
    """

    def __init__(self, lm: LM, x: CalibrationSet, stack: str) -> None:
        self._tokenizer = lm.tokenizer
        last = stack == lm.layout.stacks[-1]
        self._ids = x.outputs if last else x.tokens  # (N, T)
        counted = x.counted if last else None if x.mask is None else x.mask.astype(bool)
        marks = np.ones(self._ids.shape, bool) if counted is None else counted
        self._sample, self._position = np.nonzero(marks)

    def excerpts(self, values: np.ndarray, most: int) -> tuple[Excerpt, ...]:
        """The best position of each sample, for the samples where it is largest."""
        sizes, found = np.abs(values), []
        for sample in np.unique(self._sample):
            here = np.flatnonzero(self._sample == sample)
            peak = here[int(np.argmax(sizes[here]))]
            found.append((-sizes[peak], int(sample), int(peak), here))
        return tuple(self._excerpt(values, sample, peak, here) for _, sample, peak, here in sorted(found)[:most])

    def _excerpt(self, values: np.ndarray, sample: int, peak: int, here: np.ndarray) -> Excerpt:
        place = int(np.searchsorted(here, peak))
        shown = here[max(0, place - BEFORE) : place + AFTER + 1]
        positions = self._position[shown]
        ids = self._ids[sample, positions].tolist()
        pieces = token_texts(self._tokenizer, ids, str(self._tokenizer.decode(ids)), special=True)
        peak_place = int(np.searchsorted(shown, peak))
        return Excerpt(sample, int(positions[0]), peak_place, pieces, tuple(values[shown].tolist()))

    def means(self, values: np.ndarray) -> tuple[TokenMean, ...]:
        """The tokens with the largest mean size; those that occur once only where too few occur more often."""
        ids, inverse, counts = np.unique(
            self._ids[self._sample, self._position], return_inverse=True, return_counts=True
        )
        means = np.bincount(inverse, weights=np.abs(values)) / counts
        often = np.flatnonzero(counts > 1)
        chosen = often if len(often) >= TOKENS else np.arange(len(ids))
        best = sorted(chosen, key=lambda place: -means[place])[:TOKENS]
        return tuple(
            TokenMean(str(self._tokenizer.decode([int(ids[place])])), int(counts[place]), float(means[place]))
            for place in best
        )


def _norms(lm: LM, site: Site) -> dict[str, np.ndarray]:
    """Weight matrix -> float64 (units,), the Euclidean norm of each unit's rows or columns."""
    block = lm.block(site.stack, site.layer)
    found = {}
    for part in lm.family.slices(lm.settings, site):
        weight = linear_layer(block, part).weight
        squares = torch.zeros(lm.layout[site].units, device=weight.device)
        add_unit_sums(squares, part, weight, weight)
        found[part.module.rpartition(".")[2]] = np.sqrt(squares.cpu().numpy().astype(np.float64))
    return found


def _norm_of(name: str, norms: np.ndarray, unit: int) -> WeightNorm:
    return WeightNorm(name, float(norms[unit]), float(norms.mean()), int((norms > norms[unit]).sum()) + 1)
