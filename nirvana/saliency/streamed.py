"""A forward and a backward pass of some batches, block by block, for a model with weights on disk.

The forward pass keeps the inputs of all blocks, on disk beyond a budget of memory. Then block by block, from the last,
all batches pass through that block again with autograd. Each block is read once in each direction, and the peak of the
memory does not grow with the number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from nirvana.forward.bounds import BUDGET
from nirvana.forward.replay import Inputs, Replay
from nirvana.forward.states import States
from nirvana.layout import Site
from nirvana.models.lm import LM

Upstream = Callable[[nn.Linear, torch.Tensor, int], torch.Tensor]
Begin = Callable[[list[Site]], None]
Backward = Callable[[int, torch.Tensor | None, torch.Tensor, torch.Tensor], torch.Tensor | None]


def streamed_backward(
    lm: LM, batches: Sequence[Inputs], upstream: Upstream, begin: Begin, backward: Backward, tick: Callable[[], None]
) -> None:
    """Pass gradients from the last hidden states to the first block.

    Args:
        lm: a model without an encoder.
        batches: of samples.
        upstream: (head, hidden (b, T, H), index of the batch) -> (b, T, H), the gradient at these states.
        begin: called with the sites of each block before its batches, when its weights are in memory.
        backward: (index of the batch, input states of the block or None for the first, its output states, the gradient
            at these) -> the gradient at the input states.
        tick: called after each batch of each block of the forward pass; may raise `Cancelled`.
    """
    head, gradients = lm.family.head(lm.module()), States(BUDGET)
    with Replay(lm, batches, keep=True) as replay:
        for _ in replay.places:
            replay.advance(tick)
        above = []
        for batch in range(replay.batches):
            states, hidden = replay.through(batch)
            with torch.no_grad():
                gradient = upstream(head, hidden.detach(), batch)
            assert states is not None
            (at_end,) = torch.autograd.grad(hidden, states, gradient)
            above.append(gradients.put(at_end))
        while replay.retreat():
            stack, position = replay.lowest
            layer = lm.layout.layers(stack)[position]
            lm.block(stack, layer)
            begin([site for site in lm.layout if site[:2] == (stack, layer)])
            for batch, key in enumerate(above):
                states, output = replay.through(batch)
                below = backward(batch, states, output, gradients.get(key))
                gradients.drop(key)
                if below is not None:
                    above[batch] = gradients.put(below)
