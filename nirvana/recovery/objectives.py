"""Losses of a recovery, a few hundred positions of logits at a time, so that memory stays bounded."""

from __future__ import annotations

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
    leaf, total = states.detach().requires_grad_(), 0.0
    for start in range(0, len(leaf), chunk_positions(head.weight.shape[0])):
        part = slice(start, start + chunk_positions(head.weight.shape[0]))
        with torch.no_grad():
            log_p = torch.log_softmax(teacher_head(teacher_states[part]).float(), dim=-1)
        log_q = torch.log_softmax(head(leaf[part]).float(), dim=-1)
        kl = (log_p.exp() * (log_p - log_q)).sum()
        torch.autograd.backward(kl * scale)
        total += float(kl.detach())
    torch.autograd.backward(states, leaf.grad)
    return total


def language_modelling(head: nn.Linear, states: torch.Tensor, labels: torch.Tensor, scale: float) -> float:
    """Sum of the negative log-likelihoods of `labels`, (P,), of which -100 count nothing; the gradient as above."""
    leaf, total = states.detach().requires_grad_(), 0.0
    for start in range(0, len(leaf), chunk_positions(head.weight.shape[0])):
        part = slice(start, start + chunk_positions(head.weight.shape[0]))
        logits = head(leaf[part]).float()
        loss = nn.functional.cross_entropy(logits, labels[part], ignore_index=UNLABELLED, reduction="sum")
        torch.autograd.backward(loss * scale)
        total += float(loss.detach())
    torch.autograd.backward(states, leaf.grad)
    return total
