"""Perplexity over non-overlapping windows (paper, evaluation protocol)."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from nirvana.calibration.corpora.corpus import CorpusSplit, Text, as_split
from nirvana.calibration.tasks import FIRST_BYTE, Examples, is_bytes, make_pairs, task_of
from nirvana.errors import CorpusError, ModelError
from nirvana.evaluation.results import Perplexity
from nirvana.forward.bounds import chunk_positions
from nirvana.forward.chunks import hidden_batches
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHARACTERS_PER_TOKEN = 8  # characters read at first for each token; English has about 4.5
STAGE = "Perplexity"


def perplexity(
    lm: LM,
    text: Text,
    *,
    window: int = 512,
    max_tokens: int = 32_768,
    task: str = "auto",
    progress: ProgressCallback | None = None,
) -> Perplexity:
    """exp of the mean negative log-likelihood, in nats per token, of text in windows that do not overlap.

    Documents are joined with blank lines and tokenised once. Each window predicts window - 1 tokens from those before
    them in the window alone, so results of different windows are not comparable. Logits are computed in float32 for a
    few hundred positions at a time.

    An encoder-decoder predicts the masked part of each window given the rest (see `task`); only labels that are tokens
    of the text count, not sentinels and end tokens.

    Args:
        text: a corpus, of which the evaluation split is read; or a split, a string or documents, used whole.
        window: tokens in a window, 2 or more.
        max_tokens: read at most this many tokens; an incomplete last window is dropped.
        task: for an encoder-decoder, "span corruption", "continuation", or "auto" for the task that it was trained on.
        progress: called after every few hundred tokens; may raise `Cancelled`.

    Raises:
        CorpusError: the text does not fill one window, a number makes no sense, or the model has no such task.
        ModelError: the window is longer than the model's positions, or the model's output is not a number.
    """
    _check(lm, window, max_tokens)
    task = task_of(lm, task)
    split = as_split(text, "evaluation")
    report(progress, STAGE, 0, 0)
    windows, sizes = _windows(lm, split, window, max_tokens)
    examples = _examples(lm, windows, task)
    counted = examples.origin >= 0  # the same number in each window
    losses = _losses(lm, examples, progress)[counted].reshape(len(windows), -1)
    scored_bytes = int(np.take_along_axis(sizes, np.maximum(examples.origin, 0), axis=1)[counted].sum())
    per_window = losses.mean(axis=1, dtype=np.float64)
    mean = float(per_window.mean())
    if not math.isfinite(mean):
        raise ModelError(
            f"{lm.source.name} gives outputs that are not numbers.", "Load it with dtype float32, or check its weights."
        )
    value = float(np.exp(np.float64(mean)))
    count = len(per_window)
    error = value * float(per_window.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Perplexity(
        value=value,
        standard_error=error,
        bits_per_byte=float(losses.sum(dtype=np.float64)) / math.log(2) / scored_bytes,
        tokens=losses.size,
        windows=count,
        window=window,
        corpus=split.corpus,
        corpus_hash=split.source_hash,
        task=task,
        per_window=per_window,
    )


def check_text(lm: LM, text: Text, *, window: int) -> None:
    """Check, before computing, that `perplexity` can measure the text.

    Raises:
        CorpusError: the text does not fill one window, or the window is below 2.
        ModelError: the window is longer than the model's positions.
    """
    _check(lm, window, window)
    _windows(lm, as_split(text, "evaluation"), window, window)


def _check(lm: LM, window: int, max_tokens: int) -> None:
    positions = lm.family.geometry(lm.settings).get("positions", window)
    if window > positions:
        raise ModelError(
            f"A window of {window} tokens is longer than the {positions} positions of {lm.source.name}.",
            f"Use a window of {positions} or fewer.",
        )
    if window < 2 or max_tokens < window:
        raise CorpusError(
            f"A window of {window} with at most {max_tokens} tokens predicts nothing.",
            "Use a window of 2 or more, and at least as many tokens.",
        )


def _examples(lm: LM, windows: np.ndarray, task: str) -> Examples:
    """Windows (N, T) -> inputs and labels; the same windows always give the same examples."""
    if task:
        return make_pairs(lm, windows, task, np.random.default_rng(0))
    origin = np.tile(np.arange(1, windows.shape[1]), (len(windows), 1))
    return Examples(windows, None, windows[:, 1:], origin)


def _losses(lm: LM, examples: Examples, progress: ProgressCallback | None) -> np.ndarray:
    """float32 (N, U): nats of each label."""
    head = lm.family.head(lm.module())
    chunk = chunk_positions(head.weight.shape[0])
    samples, predicted = examples.labels.shape
    losses = np.empty((samples, predicted), np.float32)
    done, flat = 0, losses.reshape(-1)
    report(progress, STAGE, done, flat.size)
    for first, hidden in hidden_batches(lm, examples.inputs, examples.decoder_inputs, stage=STAGE, progress=progress):
        targets = torch.from_numpy(examples.labels[first : first + len(hidden)].reshape(-1)).to(lm.device)
        states = hidden[:, :predicted].reshape(-1, hidden.shape[-1])
        for start in range(0, len(states), chunk):
            report(progress, STAGE, done, flat.size)
            with torch.inference_mode():
                logits = head(states[start : start + chunk]).float()  # (chunk, V)
                loss = F.cross_entropy(logits, targets[start : start + chunk], reduction="none")
            flat[done : done + len(loss)] = loss.cpu().numpy()
            done += len(loss)
    report(progress, STAGE, done, flat.size)
    return losses


def _windows(lm: LM, split: CorpusSplit, window: int, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 (N, window) of the first tokens, and the number of UTF-8 bytes of each."""
    text = split.text
    # Encoders get their end token with each window, not with the text.
    ids, ends = _first_tokens(lm.tokenizer, text, max_tokens, special=not lm.family.encoder_decoder)
    count = len(ids) // window
    if not count:
        raise CorpusError(
            f"The {split.name} text of {split.corpus} has {len(ids):,} tokens, less than one window of {window}.",
            "Use a shorter window or more text.",
        )
    windows = np.array(ids[: count * window], dtype=np.int64).reshape(count, window)
    lm.check_tokens(windows)
    sizes = [len(text[start:end].encode()) for start, end in itertools.pairwise([0, *ends[: count * window]])]
    return windows, np.array(sizes).reshape(count, window)


def _first_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, count: int, *, special: bool
) -> tuple[list[int], list[int]]:
    """The first `count` tokens of the text and, for each, the character where it ends.

    Only the beginning of a long text is tokenised: a cut can change only the last few tokens before it.
    """
    margin = 64
    length = (count + margin) * CHARACTERS_PER_TOKEN
    while True:
        encoded = tokenizer(
            text[:length], add_special_tokens=special, return_offsets_mapping=tokenizer.is_fast, verbose=False
        )
        ids: list[int] = encoded["input_ids"]
        if length >= len(text) or len(ids) >= count + margin:
            break
        length *= 2
    ids = ids[:count]
    if tokenizer.is_fast:
        spans = [end for _, end in encoded["offset_mapping"][:count]]
        return ids, list(itertools.accumulate(spans, max))  # special tokens end at 0
    if is_bytes(tokenizer):  # a character counts with its first byte
        pieces = [int(0 <= token - FIRST_BYTE < 256 and (token - FIRST_BYTE) & 0xC0 != 0x80) for token in ids]
    else:
        pieces = [len(tokenizer.decode([token])) for token in ids]
    return ids, [min(end, len(text)) for end in itertools.accumulate(pieces)]
