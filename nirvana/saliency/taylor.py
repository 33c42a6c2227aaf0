"""LLM-Pruner's first-order Taylor importance: |dL/dW * W| for the language-modelling loss (arXiv 2305.11627).

    L = mean over the set's labels of -log softmax(logits)[label]

Gradients add up over the whole calibration set before the absolute value is taken, and a unit's score is the sum over
its weights. The label of a position is the next token; for an encoder-decoder, the decoder's label.

The gradient at the last hidden states, (softmax - one-hot) W / labels, is computed for a few positions at a time,
without autograd.
"""

from __future__ import annotations

import torch
from torch import nn

from nirvana.errors import SaliencyError
from nirvana.forward.tokens import UNLABELLED
from nirvana.saliency.first_order import Batch, first_order_scores
from nirvana.saliency.request import Request, Scored

CHUNK = 1 << 22  # logits at a time, in float32; with their gradient half of the memory estimate


def unit_scores(request: Request) -> Scored:
    """Sum of |W * dL/dW| over each unit's weights."""
    return first_order_scores(request, output_gradient)


def output_gradient(head: nn.Linear, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The gradient of L at `hidden`, (b, T, H), times the tokens of the whole set, in the dtype of `hidden`.

    Raises:
        SaliencyError: no position of the set has a label.
    """
    check_labels(batch.predicted)
    scale = batch.samples * batch.length / batch.predicted
    gradient = torch.zeros_like(hidden)
    for sample, states in enumerate(hidden):
        batch.tick()
        gradient[sample] = loss_gradient(head, states, batch.labels[sample], scale)
    return gradient


def check_labels(predicted: int) -> None:
    """Check that a set has labels.

    Raises:
        SaliencyError: `predicted` is 0.
    """
    if predicted == 0:
        raise SaliencyError("The calibration samples predict nothing.", "Use samples of 2 tokens or more.")


def loss_gradient(head: nn.Linear, states: torch.Tensor, labels: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The gradient of the summed negative log-likelihood of labels (T,) at `states`, (T, H), times `scale`."""
    gradient = torch.zeros_like(states)
    places = (labels != UNLABELLED).nonzero().flatten()
    for part in torch.split(places, max(1, CHUNK // head.weight.shape[0])):
        slope = head(states[part]).float().softmax(dim=1)  # (C, V)
        slope[torch.arange(len(part), device=slope.device), labels[part]] -= 1
        gradient[part] = slope.mul_(scale).to(states.dtype) @ head.weight  # (C, H)
    return gradient
