"""A variant of NIRVANA's objective (arXiv 2509.14230): the maximum is taken over the vocabulary, not over positions.

    f = mean over the positions that count of  max over vocabulary entries v of logits[b, t, v]

Otherwise as published, so a comparison of the two measures the effect of the maximum.
"""

from __future__ import annotations

import torch
from torch import nn

from nirvana.saliency.first_order import Batch, first_order_scores
from nirvana.saliency.nirvana import CHUNK
from nirvana.saliency.request import Request, Scored


def unit_scores(request: Request) -> Scored:
    """Sum of |W * df/dW| over each unit's weights, gradients summed over the samples first."""
    return first_order_scores(request, output_gradient)


def output_gradient(head: nn.Linear, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The gradient of f at `hidden`, (b, T, H), times the tokens of the whole set: the head's row of the highest
    logit.
    """
    gradient = torch.zeros_like(hidden)
    scale = batch.samples * batch.length / batch.positions
    for sample, states in enumerate(hidden):
        batch.tick()
        seen = slice(None) if batch.counted is None else batch.counted[sample]
        gradient[sample, seen] = head.weight[_highest(head, states[seen])] * scale
    return gradient


def _highest(head: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """States (t, H) -> the vocabulary entry with the highest logit of each, (t,)."""
    best = torch.full((len(states),), -torch.inf, dtype=states.dtype, device=states.device)
    entry = torch.zeros(len(states), dtype=torch.int64, device=states.device)
    for start in range(0, head.weight.shape[0], CHUNK):
        logits = states @ head.weight[start : start + CHUNK].T  # (t, C)
        if head.bias is not None:
            logits = logits + head.bias[start : start + CHUNK]
        value, index = logits.max(dim=1)
        higher = value > best
        best, entry = torch.where(higher, value, best), torch.where(higher, index + start, entry)
    return entry
