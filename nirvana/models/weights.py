"""Weights of prunable units: positions of layers, rows of units, sizes of linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from nirvana.layout import Layout, Site
from nirvana.models.families.base import Family, WeightSlice
from nirvana.models.lm import LM

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def layer_places(layout: Layout) -> dict[tuple[str, int], int]:
    """(stack, original layer) -> position in the model's layer list."""
    return {(stack, layer): place for stack in layout.stacks for place, layer in enumerate(layout.layers(stack))}


def linear_layer(layer: nn.Module, part: WeightSlice) -> nn.Linear:
    """The linear layer of `layer` that `part` names."""
    linear = layer.get_submodule(part.module)
    assert isinstance(linear, nn.Linear)
    return linear


def output_part(lm: LM, site: Site) -> WeightSlice:
    """The part of `site` that is an output projection: o_proj or down_proj, T5's o or wo, by columns."""
    return next(part for part in lm.family.slices(lm.settings, site) if part.dim == 1)


def unit_rows(units: torch.Tensor, size: int) -> torch.Tensor:
    """Rows (or columns) of `units`: [1, 3] with size 2 gives [2, 3, 6, 7]."""
    return (units[:, None] * size + torch.arange(size)).flatten()


def resize(model: PreTrainedModel, family: Family, settings: Mapping[str, object], layout: Layout) -> None:
    """Resize the linear layers of a freshly built dense `model` to `layout`, with uninitialised weights, before the
    weights of a pruned checkpoint are read into it.
    """
    places = layer_places(layout)
    for site, place in layout.items():
        layer = family.blocks(model)[site.stack][places[site.stack, site.layer]]
        for part in family.slices(settings, site):
            linear = linear_layer(layer, part)
            shape = list(linear.weight.shape)
            shape[part.dim] = place.units * part.size
            linear.weight = nn.Parameter(linear.weight.new_empty(shape))
            if linear.bias is not None and part.dim == 0:
                linear.bias = nn.Parameter(linear.bias.new_empty(shape[0]))
            if part.dim == 1 and place.output_bias:  # the library may build none here
                linear.bias = nn.Parameter(linear.weight.new_empty(place.output_bias))
            refresh_sizes(linear)


def refresh_sizes(linear: nn.Linear) -> None:
    linear.out_features, linear.in_features = linear.weight.shape
