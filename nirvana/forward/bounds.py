"""Bounds of the memory of forward passes: tokens in a batch, logits and hidden states held at once. No torch."""

from __future__ import annotations

# One unit of work should take well under a second, so that it can be cancelled: on a CPU some hundred tokens.
BATCH_TOKENS = {"cpu": 512}
BATCH_TOKENS_ACCELERATOR = 16_384
CHUNK_LOGITS = 1 << 24  # 64 MiB in float32
MOST_LOGITS = 1 << 28  # of a batch of zero-shot requests, whose logits are whole: 1 GiB in float32
BUDGET = 64 << 20  # bytes of hidden states in memory, for a model with weights on disk; the rest is on disk


def batch_tokens(device: str) -> int:
    """Tokens in a batch on a kind of device, e.g. "cpu" or "cuda:1"."""
    return BATCH_TOKENS.get(device.partition(":")[0], BATCH_TOKENS_ACCELERATOR)


def chunk_positions(vocabulary: int) -> int:
    """Positions of logits held at once."""
    return max(1, CHUNK_LOGITS // vocabulary)
