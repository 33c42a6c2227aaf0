"""Run a model over many windows in bounded memory: hidden states by batch, logits by chunk of positions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from nirvana.models.lm import LM

# One unit of work should take well under a second, so that it can be cancelled: on a CPU some hundred tokens.
BATCH_TOKENS = {"cpu": 512}
BATCH_TOKENS_ACCELERATOR = 16_384
CHUNK_LOGITS = 1 << 24  # 64 MiB in float32


def hidden_batches(
    lm: LM, tokens: np.ndarray, decoder_tokens: np.ndarray | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Windows (N, T) -> pairs of the first window's index and (B, T, H) hidden states, one a batch.

    With an encoder, it reads `tokens`, and the T positions are those of `decoder_tokens`, (N, T).
    """
    size = batch_windows(lm, max(tokens.shape[1], 0 if decoder_tokens is None else decoder_tokens.shape[1]))
    for first in range(0, len(tokens), size):
        batch, decoder_batch = (
            None if part is None else torch.from_numpy(part[first : first + size]).to(lm.device)
            for part in (tokens, decoder_tokens)
        )
        assert batch is not None
        with torch.inference_mode():
            hidden = lm.family.hidden_states(lm.weights(), batch, None, decoder_batch)
        yield first, hidden


def batch_windows(lm: LM, longest: int) -> int:
    """Windows in a batch, whose longest has so many tokens."""
    return max(1, BATCH_TOKENS.get(lm.device.type, BATCH_TOKENS_ACCELERATOR) // longest)


def chunk_positions(vocabulary: int) -> int:
    """Positions of logits held at once."""
    return max(1, CHUNK_LOGITS // vocabulary)
