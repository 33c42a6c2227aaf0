"""Run a model over many windows in bounded memory: hidden states by batch, logits by chunk of positions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from nirvana.forward.bounds import batch_tokens
from nirvana.forward.replay import Inputs, Replay
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report


def hidden_batches(
    lm: LM,
    tokens: np.ndarray,
    decoder_tokens: np.ndarray | None = None,
    *,
    stage: str = "",
    progress: ProgressCallback | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Windows (N, T) -> pairs of the first window's index and (B, T, H) hidden states, one a batch.

    With an encoder, it reads `tokens`, and the T positions are those of `decoder_tokens`, (N, T). With weights on disk
    all batches pass through a block before the next is read.

    Args:
        stage: name of the measurement in reports.
        progress: called after each batch of each block where weights are on disk; may raise `Cancelled`.
    """
    inputs = input_batches(lm, tokens, decoder_tokens)
    firsts = np.cumsum([0, *(len(batch.ids) for batch in inputs)]).tolist()
    if lm.disk is None:
        for first, batch in zip(firsts, inputs, strict=False):
            with torch.inference_mode():
                hidden = lm.family.hidden_states(lm.module(), *batch)
            yield first, hidden
        return
    with Replay(lm, inputs) as replay:
        steps = itertools.count(1)
        for _ in replay.places:
            replay.advance(lambda: report(progress, f"{stage}, blocks", next(steps), len(replay.places) * len(inputs)))
        yield from zip(firsts, replay.hidden_states(), strict=False)


def input_batches(lm: LM, tokens: np.ndarray, decoder_tokens: np.ndarray | None = None) -> list[Inputs]:
    """Windows (N, T), and those of a decoder, in batches on the model's device."""
    size = batch_windows(lm, max(tokens.shape[1], 0 if decoder_tokens is None else decoder_tokens.shape[1]))
    batches = []
    for first in range(0, len(tokens), size):
        ids, decoder_ids = (
            None if part is None else torch.from_numpy(part[first : first + size]).to(lm.device)
            for part in (tokens, decoder_tokens)
        )
        assert ids is not None
        batches.append(Inputs(ids, None, decoder_ids))
    return batches


def batch_windows(lm: LM, longest: int) -> int:
    """Windows in a batch, whose longest has so many tokens."""
    return max(1, batch_tokens(lm.device.type) // longest)
