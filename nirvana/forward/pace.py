"""Measured speed of a forward pass."""

from __future__ import annotations

import time

import numpy as np
import torch

from nirvana.forward.bounds import batch_tokens, chunk_positions
from nirvana.forward.chunks import hidden_batches
from nirvana.models.lm import LM

WINDOW = 64  # tokens
ENOUGH = 0.25  # seconds of one pass


def seconds_per_token(lm: LM) -> float:
    """Seconds per token of a forward pass without autograd, logits included.

    Runs passes over random tokens, doubling the windows each time until a pass takes a quarter of a second or fills a
    batch, and returns that pass's value. A warm-up pass comes first, since first calls set up kernels.
    """
    geometry, draw = lm.family.geometry(lm.settings), np.random.default_rng(0)
    window = min(WINDOW, geometry.get("positions", WINDOW))
    batch, windows = batch_tokens(lm.device.type), 1
    _forward(lm, draw.integers(0, geometry["vocabulary"], (1, window)))
    while True:
        tokens = draw.integers(0, geometry["vocabulary"], (windows, window))
        seconds = _forward(lm, tokens)
        if seconds >= ENOUGH or 2 * tokens.size > batch:
            return seconds / tokens.size
        windows *= 2


def _forward(lm: LM, tokens: np.ndarray) -> float:
    """Seconds of one pass."""
    head = lm.family.head(lm.module())
    chunk, total = chunk_positions(head.weight.shape[0]), torch.zeros((), device=lm.device)
    start = time.perf_counter()
    with torch.inference_mode():
        for _, hidden in hidden_batches(lm, tokens, tokens if lm.family.encoder_decoder else None):
            states = hidden.flatten(0, 1)
            for first in range(0, len(states), chunk):
                total = total + head(states[first : first + chunk]).float().logsumexp(-1).sum()
        total.item()  # an accelerator runs asynchronously
    return time.perf_counter() - start
