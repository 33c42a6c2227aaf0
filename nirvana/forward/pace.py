"""Speed of a forward pass on the machine that computes it."""

from __future__ import annotations

import time

import numpy as np
import torch

from nirvana.forward.chunks import BATCH_TOKENS, BATCH_TOKENS_ACCELERATOR, chunk_positions, hidden_batches
from nirvana.models.lm import LM

WINDOW = 64  # tokens
ENOUGH = 0.25  # seconds of one pass


def seconds_per_token(lm: LM) -> float:
    """Seconds a token of a forward pass without autograd, logits included.

    Passes over random tokens, each of twice as many windows as the one before, until one takes a quarter of a second or
    fills a batch: that one counts. One pass before them does not, since first calls set up kernels.
    """
    geometry, draw = lm.family.geometry(lm.settings), np.random.default_rng(0)
    window = min(WINDOW, geometry.get("positions", WINDOW))
    batch, windows = BATCH_TOKENS.get(lm.device.type, BATCH_TOKENS_ACCELERATOR), 1
    _forward(lm, draw.integers(0, geometry["vocabulary"], (1, window)))
    while True:
        tokens = draw.integers(0, geometry["vocabulary"], (windows, window))
        seconds = _forward(lm, tokens)
        if seconds >= ENOUGH or 2 * tokens.size > batch:
            return seconds / tokens.size
        windows *= 2


def _forward(lm: LM, tokens: np.ndarray) -> float:
    """Seconds of one pass."""
    head = lm.family.head(lm.weights())
    chunk, total = chunk_positions(head.weight.shape[0]), torch.zeros((), device=lm.device)
    start = time.perf_counter()
    with torch.inference_mode():
        for _, hidden in hidden_batches(lm, tokens, tokens if lm.family.encoder_decoder else None):
            states = hidden.flatten(0, 1)
            for first in range(0, len(states), chunk):
                total = total + head(states[first : first + chunk]).float().logsumexp(-1).sum()
        total.item()  # an accelerator computes on by itself: wait for it
    return time.perf_counter() - start
