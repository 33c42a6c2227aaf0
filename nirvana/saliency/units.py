"""Sums of weights over the rows or columns of each unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from nirvana.layout import Site
from nirvana.models.families.base import WeightSlice
from nirvana.models.lm import LM
from nirvana.models.weights import linear_layer

CHUNK = 1 << 22  # weights converted to float32 at a time


def unit_weights(lm: LM, sites: Iterable[Site] | None = None) -> Iterator[tuple[Site, WeightSlice, nn.Parameter]]:
    """Every weight matrix that belongs to units, with its site, in model order; with `sites`, of these.

    With weights on disk, each is in memory until one of another block follows.
    """
    for site in lm.layout if sites is None else sites:
        block = lm.block(site.stack, site.layer)
        for part in lm.family.slices(lm.settings, site):
            weight = linear_layer(block, part).weight
            assert isinstance(weight, nn.Parameter)
            yield site, part, weight


def add_unit_sums(sums: torch.Tensor, part: WeightSlice, weight: torch.Tensor, factor: torch.Tensor | None) -> None:
    """Add sum |weight * factor| over each unit's weights to `sums`, float32 (units,), in float32.

    `weight` and `factor` have one shape: rows of `part.size` a unit along `part.dim`. Processes a few rows at a time
    instead of copying the matrix.
    """
    height, width = weight.shape
    rows = max(1, CHUNK // width)
    if part.dim == 0:
        rows = max(1, rows // part.size) * part.size
    for start in range(0, height, rows):
        piece = weight[start : start + rows].detach().float()
        piece = piece.abs() if factor is None else (piece * factor[start : start + rows].float()).abs_()
        if part.dim == 0:
            first = start // part.size
            units = piece.view(-1, part.size * width).sum(dim=1)
            sums[first : first + len(units)] += units
        else:
            sums += piece.sum(dim=0).view(-1, part.size).sum(dim=1)
