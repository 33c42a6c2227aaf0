"""Scores computed the slow way, straight from the definition: all logits with autograd, all gradients, unit by unit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from nirvana.calibration.sets import CalibrationSet
from nirvana.layout import Site
from nirvana.models.lm import LM
from nirvana.models.weights import layer_places, linear_layer, unit_rows
from nirvana.plan import PruningPlan


def nirvana_scores(lm: LM, calibration: CalibrationSet) -> dict[Site, np.ndarray]:
    """Site -> float64 (units,): sum of |W * df/dW|, f = mean over B and V of the maximum over T of the logits."""
    return gradient_scores(lm, lambda: all_logits(lm, calibration).max(dim=1).values.mean())


def loss_scores(lm: LM, calibration: CalibrationSet) -> dict[Site, np.ndarray]:
    """Site -> float64 (units,): sum of |W * dL/dW|, L = the library's own loss."""
    labels = calibration.labels
    if labels is None:
        labels = calibration.input_ids.clone()
        if calibration.attention_mask is not None:
            labels[calibration.attention_mask == 0] = -100
    return gradient_scores(lm, lambda: lm.weights()(**_inputs(calibration), labels=labels).loss)


def gradient_scores(lm: LM, objective: Callable[[], torch.Tensor]) -> dict[Site, np.ndarray]:
    """Site -> float64 (units,): sum of |W * dF/dW| of the scalar F that `objective` computes."""
    model = lm.weights()
    model.requires_grad_(True)
    model.zero_grad()
    torch.autograd.backward(objective())
    scores = unit_sums(lm)
    model.zero_grad()
    model.requires_grad_(False)
    return scores


def mask_units_(lm: LM, plan: PruningPlan) -> None:
    """Zero, in place, the output columns of the units that `plan` removes: the same function as pruning them."""
    places = layer_places(lm.layout)
    with torch.no_grad():
        for site, kept in plan.items():
            removed = np.setdiff1d(np.arange(lm.layout[site].units), kept)
            layer = lm.family.blocks(lm.weights())[site.stack][places[site.stack, site.layer]]
            for part in lm.family.slices(lm.settings, site):
                if part.dim == 1:
                    columns = unit_rows(torch.from_numpy(removed), part.size)
                    linear_layer(layer, part).weight[:, columns] = 0


def all_logits(lm: LM, calibration: CalibrationSet) -> torch.Tensor:
    """(B, T, V), with -inf where a position is padding."""
    logits = unmasked_logits(lm, calibration)
    seen = calibration.attention_mask if calibration.labels is None else calibration.labels != -100
    return logits if seen is None else logits.masked_fill(seen[:, :, None] == 0, -torch.inf)


def unmasked_logits(lm: LM, calibration: CalibrationSet) -> torch.Tensor:
    """(B, T, V) as the library gives them."""
    logits: torch.Tensor = lm.weights()(**_inputs(calibration)).logits
    return logits


def _inputs(calibration: CalibrationSet) -> dict[str, torch.Tensor | None]:
    inputs = {"input_ids": calibration.input_ids, "attention_mask": calibration.attention_mask}
    if calibration.decoder_input_ids is not None:
        inputs["decoder_input_ids"] = calibration.decoder_input_ids
    return inputs


def unit_sums(lm: LM) -> dict[Site, np.ndarray]:
    """The sum of |W * its gradient| over the rows or columns of each unit, one unit at a time."""
    places, blocks = layer_places(lm.layout), lm.family.blocks(lm.weights())
    scores = {}
    for site, place in lm.layout.items():
        block = blocks[site.stack][places[site.stack, site.layer]]
        values = np.zeros(place.units)
        for part in lm.family.slices(lm.settings, site):
            weight = block.get_submodule(part.module).weight
            assert isinstance(weight, torch.nn.Parameter) and weight.grad is not None
            products = (weight.detach().double() * weight.grad.double()).abs().movedim(part.dim, 0)
            for unit in range(place.units):
                values[unit] += float(products[unit * part.size : (unit + 1) * part.size].sum())
        scores[site] = values
    return scores
