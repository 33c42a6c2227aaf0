"""Losses of a recovery, a few hundred positions of logits at a time, so that memory stays bounded.

The gradient with respect to the logits is written out, softmax(logits) - target, which spares automatic differentiation
several passes over (positions, vocabulary) values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from nirvana.forward.bounds import chunk_positions
from nirvana.forward.tokens import UNLABELLED

# Positions and their log-probabilities (P, V), which may be overwritten -> loss of each position (P,), and the gradient
# of their sum with respect to the logits (P, V).
Loss = Callable[[slice, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


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

    def loss(part: slice, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_p = torch.log_softmax(teacher_head(teacher_states[part]).float(), dim=-1)
        p = log_p.exp()
        return torch.linalg.vecdot(p, log_p.sub_(log_q)), log_q.exp_().sub_(p)

    return _backward(head, states, loss, scale)


def language_modelling(head: nn.Linear, states: torch.Tensor, labels: torch.Tensor, scale: float) -> float:
    """Sum of the negative log-likelihoods of `labels`, (P,), of which -100 count nothing; the gradient as above."""

    def loss(part: slice, log_q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        known = labels[part] != UNLABELLED
        own = labels[part].where(known, 0)[:, None]
        values = -log_q.gather(1, own)[:, 0].where(known, 0)
        return values, log_q.exp_().scatter_add_(1, own, -torch.ones_like(own, dtype=log_q.dtype)).mul_(known[:, None])

    return _backward(head, states, loss, scale)


def _backward(head: nn.Linear, states: torch.Tensor, loss: Loss, scale: float) -> float:
    """Sum of `loss` over all positions; its gradient, times `scale`, is added to the weights."""
    leaf, total, size = states.detach().requires_grad_(), 0.0, chunk_positions(head.weight.shape[0])
    for start in range(0, len(leaf), size):
        part = slice(start, start + size)
        logits = head(leaf[part])
        with torch.no_grad():
            values, gradient = loss(part, torch.log_softmax(logits.float(), dim=-1))
        logits.backward(gradient.mul_(scale).to(logits.dtype))
        total += float(values.double().sum())
    torch.autograd.backward(states, leaf.grad)
    return total
