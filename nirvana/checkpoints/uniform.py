"""A checkpoint with equal widths in all layers: each is filled up with zeros to the widest. No code comes with it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from nirvana.checkpoints.card import checkpoint_card
from nirvana.checkpoints.placing import placed, refuse_foreign
from nirvana.checkpoints.saving import checkpoint_config, write_model
from nirvana.checkpoints.sizes import uniform_layout
from nirvana.errors import CheckpointError
from nirvana.evaluation.results import Report
from nirvana.files import content_hash
from nirvana.models.families import WeightSlice
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report, track
from nirvana.surgery import layer_places, linear_layer, refresh_sizes

NOTE = (
    "Every layer is filled up with zeros to the width of the widest one, so that this is a plain checkpoint of the "
    "base's architecture. It computes what the pruned model computes."
)


def export_uniform(
    lm: LM,
    folder: str | os.PathLike[str],
    *,
    recipe: Mapping[str, Any] | None = None,
    measured: Report | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write `lm` as a plain checkpoint that anything reads which reads the base model; no remote code.

    The zeros add nothing to any activation: the logits are those of `lm` up to the order of summation. The files
    are as large as if every layer were as wide as the widest (see `uniform_layout`); `allocate(..., uniform=True)`
    makes that no loss. What is written counts as a dense model when it is loaded again; which units were kept is
    not in it.

    Args:
        lm: a model with its weights in memory.
        folder: made with its parents; a checkpoint that is there is replaced, any other content is not.
        recipe: what the model was made by, for the model card.
        measured: numbers for the model card.
        progress: called after each layer and part; may raise `Cancelled`, which leaves nothing behind.

    Returns:
        The folder, absolute.

    Raises:
        CheckpointError: the family cannot be filled up, the folder holds something else, or the disk is full or not
            writable.
        ModelError: the weights are not in memory.
    """
    target = Path(folder).expanduser().absolute()
    refuse_foreign(target)
    filled = fill_up(lm, progress=progress)
    card = checkpoint_card(lm, recipe=recipe, measured=measured, note=NOTE if lm.is_pruned else "")
    with placed(target) as staged:
        write_model(filled, staged, checkpoint_config(filled), card, progress)
        report(progress, "Writing the checkpoint", 1, 1)
    return target


def refuse_shared_slots(lm: LM) -> None:
    """Refuse a family whose heads cannot be moved to fill a layer up.

    Raises:
        CheckpointError: naming the family.
    """
    if lm.family.encoder_decoder:
        raise CheckpointError(
            f"{lm.family.name} models cannot be filled up to equal widths: the heads of all blocks share the slots of "
            "one relative position bias.",
            "Use the checkpoint format.",
        )


def fill_up(lm: LM, *, progress: ProgressCallback | None = None) -> LM:
    """A dense LM that computes what `lm` computes, each layer as wide as the widest; shares no weights with it.

    Raises:
        CheckpointError: the family cannot be filled up.
        ModelError: the weights are not in memory.
    """
    refuse_shared_slots(lm)
    model = lm.weights()
    geometry = lm.family.geometry(lm.settings)
    layout = uniform_layout(lm.layout, geometry)
    places = layer_places(lm.layout)
    filled: dict[int, nn.Parameter] = {}  # id of a narrow parameter -> what takes its place in the copy
    for site, place in track(layout.items(), progress, "Filling up layers", len(layout)):
        layer = lm.family.blocks(model)[site.stack][places[site.stack, site.layer]]
        for part in lm.family.slices(lm.settings, site):
            _fill_linear(linear_layer(layer, part), part, place.units, filled)
    # deepcopy asks the memo first, so each filled weight takes the place of the narrow one without copying that.
    wide = copy.deepcopy(model, memo=dict[int, object](filled))
    for site in layout:
        layer = lm.family.blocks(wide)[site.stack][places[site.stack, site.layer]]
        for part in lm.family.slices(lm.settings, site):
            refresh_sizes(linear_layer(layer, part))
    first, units = next(iter(layout)), {site: np.arange(place.units) for site, place in layout.items()}
    sizes = lm.family.layer_config(lm.settings, units, first.stack, first.layer)
    sizes["head_dim"] = geometry["head_dim"]  # no longer hidden size / heads
    for name, value in sizes.items():
        setattr(wide.config, name, value)
    narrow_hash = lm.compute_hash
    plain = lm.family.layout(wide.config.to_dict())  # in its own numbers, should layers have been removed
    return replace(
        lm,
        model=wide,
        config=wide.config,
        layout=plain,
        dense=plain,
        kept={site: np.arange(place.units) for site, place in plain.items()},
        compute_hash=lambda: content_hash(narrow_hash(), "uniform"),
        compute_base_hash=lambda: content_hash(narrow_hash(), "uniform"),
        plans=(),
    )


def _fill_linear(linear: nn.Linear, part: WeightSlice, units: int, filled: dict[int, nn.Parameter]) -> None:
    size = units * part.size
    for name, parameter in linear.named_parameters(recurse=False):
        dim = part.dim if name == "weight" else 0
        if (name == "weight" or part.dim == 0) and parameter.shape[dim] < size:
            shape = list(parameter.shape)
            shape[dim] = size
            wide = parameter.new_zeros(shape)
            wide.narrow(dim, 0, parameter.shape[dim]).copy_(parameter.detach())
            filled[id(parameter)] = nn.Parameter(wide, requires_grad=parameter.requires_grad)
