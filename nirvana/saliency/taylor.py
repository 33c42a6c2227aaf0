"""LLM-Pruner's first-order Taylor importance: |dL/dW * W| for the language-modelling loss (arXiv 2305.11627).

    L = mean over the set's labels of -log softmax(logits)[label]

Gradients add up over the whole calibration set before the absolute value is taken, and a unit's score is the sum over
its weights. The label of a position is the token that comes next; of an encoder-decoder, what the decoder should say.

The gradient at the last hidden states, (softmax - one-hot) W / labels, is computed for a few positions at a time,
without autograd.
"""

from __future__ import annotations

import torch
from torch import nn

from nirvana.errors import SaliencyError
from nirvana.saliency.first_order import Batch, first_order_scores
from nirvana.saliency.request import UNLABELLED, Request, Scored

CHUNK = 1 << 22  # logits at a time, in float32: with their gradient half of what the memory estimate sets aside


def unit_scores(request: Request) -> Scored:
    """Sum of |W * dL/dW| over each unit's weights."""
    return first_order_scores(request, output_gradient)


def output_gradient(head: nn.Linear, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The gradient of L at `hidden`, (b, T, H), times the tokens of the whole set, in the dtype of `hidden`.

    Raises:
        SaliencyError: no position of the set has a label.
    """
    if batch.predicted == 0:
        raise SaliencyError("The calibration samples predict nothing.", "Use samples of 2 tokens or more.")
    scale = batch.samples * batch.length / batch.predicted
    gradient = torch.zeros_like(hidden)
    chunk = max(1, CHUNK // head.weight.shape[0])
    for sample, states in enumerate(hidden):
        batch.tick()
        places = (batch.labels[sample] != UNLABELLED).nonzero().flatten()
        for part in torch.split(places, chunk):
            slope = head(states[part]).float().softmax(dim=1)  # (C, V)
            slope[torch.arange(len(part), device=slope.device), batch.labels[sample, part]] -= 1
            gradient[sample, part] = slope.mul_(scale).to(hidden.dtype) @ head.weight  # (C, H)
    return gradient
