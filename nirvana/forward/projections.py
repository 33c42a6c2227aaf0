"""Inputs of the output projections while the model reads a calibration set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nirvana.forward.reader import Reader
from nirvana.layout import Site
from nirvana.models.lm import LM
from nirvana.models.weights import layer_places, linear_layer, output_part
from nirvana.progress import ProgressCallback

if TYPE_CHECKING:
    from nirvana.calibration.sets import CalibrationSelection, CalibrationSet

Visit = Callable[[Site, torch.Tensor], None]


def visit_inputs(
    lm: LM,
    calibration: Iterable[CalibrationSet | CalibrationSelection],
    visit: Visit,
    *,
    stage: str,
    sites: Sequence[Site] | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Run `lm` over calibration sets and call `visit(site, inputs)` for each site and batch.

    `inputs` are what the site's output projection (o_proj, down_proj, T5's o and wo) reads at the tokens that count,
    float32 (n, d) with d = units times columns a unit, without padding.

    Args:
        stage: name of the stage in progress reports.
        sites: to visit; by default all.
        progress: called after each site of each batch; may raise `Cancelled`.

    Raises:
        SaliencyError: a calibration set does not suit the model.
        ModelError: the weights are not in memory.
    """
    visited = list(lm.layout if sites is None else sites)
    reader = Reader(lm, calibration, steps=len(visited), stage=stage, progress=progress)

    def hook(site: Site) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            visit(site, reader.counted(site.stack, inputs[0]).float())
            reader.tick()

        return before

    handles = [output_projection(lm, site).register_forward_pre_hook(hook(site)) for site in visited]
    try:
        reader.run()
    finally:
        for handle in handles:
            handle.remove()


def output_weight(lm: LM, site: Site) -> torch.Tensor:
    """The weight (out, d) of the output projection of `site`.

    Raises:
        ModelError: the model was unloaded.
    """
    return linear_layer(lm.block(site.stack, site.layer), output_part(lm, site)).weight.detach()


def output_projection(lm: LM, site: Site) -> nn.Linear:
    """The output projection of `site`, for hooks; with weights on disk it has none outside a forward.

    Raises:
        ModelError: the weights are not in memory.
    """
    block = lm.family.blocks(lm.module())[site.stack][layer_places(lm.layout)[site.stack, site.layer]]
    return linear_layer(block, output_part(lm, site))
