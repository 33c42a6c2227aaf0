"""Losses of a recovery, a few hundred positions of logits at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from nirvana.forward.chunks import chunk_positions
from nirvana.forward.tokens import UNLABELLED


def distillation(
    head: nn.Linear, states: torch.Tensor, teacher_head: nn.Linear, teacher_states: torch.Tensor, scale: float
) -> float:
    """Sum over positions of KL( teacher || student ) in nats; its gradient, times `scale`, is added to all weights.

    The full vocabulary counts. Each chunk of positions adds its gradient to the head's weight and to the states; the
    pass through the blocks follows once.

    Args:
        head, states: of the student; the states (P, H), with their graph.
        teacher_head, teacher_states: of the dense model, (P, H'), without a graph.
    """

    def loss(part: slice, log_q: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            log_p = torch.log_softmax(teacher_head(teacher_states[part]).float(), dim=-1)
        return (log_p.exp() * (log_p - log_q)).sum()

    return _backward(head, states, loss, scale)


def language_modelling(head: nn.Linear, states: torch.Tensor, labels: torch.Tensor, scale: float) -> float:
    """Sum of the negative log-likelihoods of `labels`, (P,), of which -100 count nothing; the gradient as above."""

    def loss(part: slice, log_q: torch.Tensor) -> torch.Tensor:
        return nn.functional.nll_loss(log_q, labels[part], ignore_index=UNLABELLED, reduction="sum")

    return _backward(head, states, loss, scale)


def _backward(
    head: nn.Linear, states: torch.Tensor, loss: Callable[[slice, torch.Tensor], torch.Tensor], scale: float
) -> float:
    """Sum of `loss(part, log-probabilities of its positions)` over chunks of positions, and its gradient."""
    leaf, total, size = states.detach().requires_grad_(), 0.0, chunk_positions(head.weight.shape[0])
    for start in range(0, len(leaf), size):
        part = slice(start, start + size)
        chunk = loss(part, torch.log_softmax(head(leaf[part]).float(), dim=-1))
        torch.autograd.backward(chunk * scale)
        total += float(chunk.detach())
    torch.autograd.backward(states, leaf.grad)
    return total
