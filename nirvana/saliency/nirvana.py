"""NIRVANA's saliency: |df/dW * W|, for a scalar f of the network's output (paper: saliency from the NTK view).

    f = mean over samples b and vocabulary entries v of  max over positions t of logits[b, t, v]

For each (b, v) only the position of the maximum matters, so the gradient at the last hidden states needs no logits
with autograd: df/dhidden[b, t] is the sum, over all v whose maximum lies at t, of row v of the output head, over B V.
"""

from __future__ import annotations

import torch
from torch import nn

from nirvana.saliency.first_order import Batch, first_order_scores
from nirvana.saliency.request import Request, Scored

CHUNK = 4096  # vocabulary entries at a time: T x 4096 logits stay in a processor's cache


def unit_scores(request: Request) -> Scored:
    """Sum of |W * df/dW| over each unit's weights, gradients summed over the samples first."""
    return first_order_scores(request, output_gradient)


def output_gradient(head: nn.Linear, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The gradient of f at `hidden`, (b, T, H), times the tokens of the whole set, in the dtype of `hidden`.

    Positions that do not count are excluded from the maximum.
    """
    gradient = torch.zeros_like(hidden, dtype=torch.float32)
    vocabulary = head.weight.shape[0]
    for sample, states in enumerate(hidden):
        batch.tick()
        seen = None if batch.counted is None else batch.counted[sample]
        shown = states if seen is None else states[seen]  # (t, H)
        sums = torch.zeros_like(shown, dtype=torch.float32)
        for start in range(0, vocabulary, CHUNK):
            rows = head.weight[start : start + CHUNK]  # (C, H)
            logits = rows @ shown.T  # (C, t); a bias is the same at every position, so it moves no maximum
            sums.index_add_(0, logits.argmax(dim=1), rows.float())
        if seen is None:
            gradient[sample] = sums
        else:
            gradient[sample, seen] = sums
    # Mean over B and V, times the B T tokens of the set: B cancels.
    return (gradient * (batch.length / vocabulary)).to(hidden.dtype)
