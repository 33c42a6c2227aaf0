"""A checkpoint with equal widths in all layers, padded with zeros to the widest. It contains no code."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from nirvana.checkpoints.card import checkpoint_card
from nirvana.checkpoints.placing import placed, refuse_foreign
from nirvana.checkpoints.saving import added_biases, checkpoint_config, file_dtype, own_tensors, write_model
from nirvana.checkpoints.sizes import padding_note, shared_units, uniform_layout
from nirvana.errors import CheckpointError
from nirvana.evaluation.results import Report
from nirvana.files import content_hash, user_path
from nirvana.layout import KV_GROUP, NEURON, Layout
from nirvana.models.lm import LM
from nirvana.models.loading import build_model
from nirvana.models.weights import layer_places, linear_layer, unit_rows
from nirvana.progress import ProgressCallback, report, track

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NOTE = (
    "Every layer is padded with zeros to the width of the widest, so this is a plain checkpoint of the base's "
    "architecture. It computes the pruned model's outputs."
)
EQUAL = "Every layer has the same widths, so this is a plain checkpoint of the base's architecture."


def export_uniform(
    lm: LM,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    recipe: Mapping[str, Any] | None = None,
    measured: Report | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write `lm` as a plain checkpoint for every program that reads the base model, without remote code.

    The zeros add nothing to any activation: the logits are those of `lm` up to the order of summation. The files have
    the size of a model with the widest layer's width in all layers (see `uniform_layout`); with `allocate(...,
    uniform=True)` that is no loss. T5's blocks share one position bias, so heads keep their index in each
    self-attention, whose width is the union of the heads that a stack's blocks kept. The checkpoint loads as a dense
    model; it does not record the kept units.

    Args:
        lm: a model with its weights in memory.
        folder: created with its parents; a checkpoint is replaced, other content is not.
        dtype: of the weights in the files, see `file_dtype`.
        recipe: the model's recipe, for the model card.
        measured: numbers for the model card.
        progress: called after each layer and part; may raise `Cancelled`, which leaves nothing behind.

    Returns:
        The folder, absolute.

    Raises:
        CheckpointError: the model has biases that a plain one cannot have, the folder holds other content, a weight
            does not fit the dtype, or the disk is full or not writable.
        ModelError: the weights are not in memory.
    """
    target = user_path(folder, CheckpointError).absolute()
    refuse_foreign(target)
    stored = file_dtype(lm, dtype)
    filled = fill_up(lm, progress=progress)
    padded = padding_note(lm.layout, lm.kept)
    form = EQUAL if filled.layout.prunable == lm.layout.prunable else f"{NOTE}{f' It has {padded}.' if padded else ''}"
    note = form if lm.is_pruned else ""
    card = checkpoint_card(lm, recipe=recipe, measured=measured, note=note)
    with placed(target) as staged:
        write_model(filled, staged, checkpoint_config(filled, stored), card, progress)
        report(progress, "Writing the checkpoint", 1, 1)
    return target


def refuse_uniform(lm: LM) -> None:
    """Check that a plain checkpoint can hold the model.

    Raises:
        CheckpointError: it has biases that the plain architecture lacks.
    """
    homeless = sorted({site.module for site in added_biases(lm)} - set(lm.family.bias_settings))
    if homeless:
        raise CheckpointError(
            f"A plain {lm.layout.architecture} has no biases on the output projections of "
            f"{' and '.join(name.replace('_', '-') for name in homeless)}, and compensation added some.",
            "Use the checkpoint format, or prune without biases.",
        )


def fill_up(lm: LM, *, progress: ProgressCallback | None = None) -> LM:
    """A dense LM with the outputs of `lm` and the widths of `uniform_layout`; shares no weights.

    Raises:
        CheckpointError: see `refuse_uniform`.
        ModelError: the weights are not in memory.
    """
    refuse_uniform(lm)
    config = _plain_config(lm)
    plain = lm.family.layout(config.to_dict())  # renumbered, if layers were removed
    model: Any = build_model(config, lm.family, plain, _filled_tensors(lm, plain, progress), lm.dtype)
    model.config.tie_word_embeddings = lm.config.tie_word_embeddings  # some configs override it
    model.generation_config = copy.deepcopy(lm.weights().generation_config)
    model.requires_grad_(False).eval()
    nn.Module.to(model, lm.device)
    plain = lm.family.layout(model.config.to_dict())
    narrow_hash = lm.compute_hash
    return replace(
        lm,
        model=model,
        config=model.config,
        layout=plain,
        dense=plain,
        kept={site: np.arange(place.units) for site, place in plain.items()},
        compute_hash=lambda: content_hash(narrow_hash(), "uniform"),
        compute_base_hash=lambda: content_hash(narrow_hash(), "uniform"),
        plans=(),
        compensations=(),
    )


def _plain_config(lm: LM) -> PretrainedConfig:
    wide = uniform_layout(lm.layout, lm.kept)
    groups, width = (wide[wide.pool(kind)[0]].units for kind in (KV_GROUP, NEURON))
    settings = lm.settings | lm.family.uniform_config(lm.settings, groups, width)
    settings |= {lm.family.bias_settings[site.module]: True for site in added_biases(lm)}
    config: PretrainedConfig = type(lm.config).from_dict(settings)
    return config


def _filled_tensors(lm: LM, plain: Layout, progress: ProgressCallback | None) -> dict[str, torch.Tensor]:
    """Name -> tensor of the plain model on the CPU."""
    model, places, shared = lm.weights(), layer_places(lm.layout), shared_units(lm.layout, lm.kept)
    names = {module: name for name, module in model.named_modules()}
    tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in own_tensors(model)}
    for site, place in track(lm.layout.items(), progress, "Padding layers", len(lm.layout)):
        index = places[site.stack, site.layer]
        layer, wide = lm.family.blocks(model)[site.stack][index], plain[site._replace(layer=index)]
        union = shared.get((site.stack, site.module))
        slots = np.arange(place.units) if union is None else np.searchsorted(union, lm.kept[site])
        for part in lm.family.slices(lm.settings, site):
            name, size = names[linear_layer(layer, part)], wide.units * part.size
            rows = unit_rows(torch.from_numpy(slots), part.size)
            tensors[f"{name}.weight"] = _spread(tensors[f"{name}.weight"], part.dim, rows, size)
            bias, length = f"{name}.bias", size if part.dim == 0 else wide.output_bias
            if part.dim == 0 and bias in tensors:
                tensors[bias] = _spread(tensors[bias], 0, rows, size)
            elif bias not in tensors and (wide.biases if part.dim == 0 else wide.output_bias):
                tensors[bias] = tensors[f"{name}.weight"].new_zeros(length)
    for key, name in lm.family.unit_tables.items():
        units = torch.from_numpy(shared[key])
        groups = next(place.units for site, place in plain.items() if (site.stack, site.module) == key)
        tensors[name] = _spread(tensors[name][:, units], 1, torch.arange(len(units)), groups)
    return tensors


def _spread(values: torch.Tensor, dim: int, places: torch.Tensor, size: int) -> torch.Tensor:
    """Zeros with `size` entries along `dim`, `values` at `places` of them."""
    shape = list(values.shape)
    shape[dim] = size
    return values.new_zeros(shape).index_copy_(dim, places, values)
