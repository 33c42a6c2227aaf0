"""Block influence (ShortGPT, arXiv 2403.03853): the change of direction of the hidden states by a layer.

    BI = 1 - mean over tokens t of  cos(hidden states of t into the layer, out of it)

It scores whole layers: every unit has its layer's score. As published, whole layers are removed, the lowest influence
first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn
from torch.nn import functional as F

from nirvana.forward.reader import Reader
from nirvana.forward.states import block_input, block_output
from nirvana.models.lazy import computes
from nirvana.models.lm import LM
from nirvana.saliency.activations import STAGE
from nirvana.saliency.request import Request, Scored

Layer = tuple[str, int]  # stack, original index


def unit_scores(request: Request) -> Scored:
    """The influence of each unit's layer, in [0, 2]; of an encoder-decoder, of the blocks of both stacks."""
    lm = request.lm
    blocks = _layers(lm)
    totals, tokens = dict.fromkeys(blocks, 0.0), dict.fromkeys(blocks, 0)
    reader = Reader(lm, [request.text()], steps=len(blocks), stage=STAGE, progress=request.progress)

    def hook(layer: Layer) -> Callable[..., None]:
        def after(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if not computes(block):
                return
            states = (block_input(args, kwargs), block_output(output))
            before, behind = (reader.counted(layer[0], each).float() for each in states)
            totals[layer] += float(F.cosine_similarity(before, behind, dim=1).sum())
            tokens[layer] += len(before)
            reader.tick()

        return after

    handles = [block.register_forward_hook(hook(layer), with_kwargs=True) for layer, block in blocks.items()]
    try:
        reader.run()
    finally:
        for handle in handles:
            handle.remove()
    influence = {layer: 1 - total / tokens[layer] for layer, total in totals.items()}
    scores = {
        site: np.full(place.units, influence[site.stack, site.layer], np.float32) for site, place in lm.layout.items()
    }
    return Scored(scores, {})


def _layers(lm: LM) -> dict[Layer, nn.Module]:
    """All blocks of the model."""
    return {
        (stack, layer): block
        for stack, blocks in lm.family.blocks(lm.module()).items()
        for layer, block in zip(lm.layout.layers(stack), blocks, strict=True)
    }
