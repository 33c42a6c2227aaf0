"""Draw calibration and probe windows from a corpus (paper: 32 windows of 128 tokens, 128 probes of 64).

Probes are fewer and longer here: KL on 512 tokens orders models as perplexity does, which KL on 64 does not always
(docs/results.md, "Length of the probe").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nirvana.calibration.corpora.corpus import SEPARATOR, CorpusSplit, Text, as_split
from nirvana.calibration.corpora.mixture import shares
from nirvana.calibration.sets import CalibrationSet
from nirvana.calibration.tasks import make_pairs, readable, task_of
from nirvana.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nirvana.models.lm import LM

SPREAD = 8  # documents are tokenised until there are this many times the tokens to draw
BATCH = 16  # documents at a time, for fast tokenizers' threads; constant, since the draw depends on it


def sample_calibration(
    lm: LM, text: Text, *, samples: int = 32, length: int = 128, seed: int = 0, task: str = "auto"
) -> CalibrationSet:
    """Draw `samples` windows of `length` tokens from the calibration split of a corpus.

    Documents are taken in a random order and joined with blank lines; the windows are cut from them at random and do
    not overlap while the text is long enough. The same seed, tokenizer and text give the same windows. Each part of a
    mixture gives the same number of windows, the first parts one more where they do not divide.

    Args:
        text: a corpus; or a split, a string or documents, which are used whole.
        task: for an encoder-decoder: "span corruption", "continuation", or "auto" for the task that the model was
            trained on.

    Raises:
        CorpusError: the text is too short for the windows, a number makes no sense, or the model has no such task.
    """
    return _sample(lm, as_split(text, "calibration"), samples, length, seed, task)


def sample_probe(
    lm: LM, text: Text, *, samples: int = 16, length: int = 512, seed: int = 42, task: str = "auto"
) -> CalibrationSet:
    """Draw the probe windows for divergence from the probe split; otherwise as `sample_calibration`.

    Raises:
        CorpusError: the text is too short for the windows, a number makes no sense, or the model has no such task.
    """
    return _sample(lm, as_split(text, "probe"), samples, length, seed, task)


def all_windows(lm: LM, text: Text, *, length: int = 128, seed: int = 0) -> np.ndarray:
    """All windows of `length` tokens of the calibration split, side by side: int64 (N, length).

    Documents are joined as in `sample_calibration`; the tokens after the last whole window are left out. A mixture
    gives the windows of all its parts.

    Raises:
        CorpusError: a text does not fill one window, or a number makes no sense.
        ModelError: a window has a token without an embedding.
    """
    split = as_split(text, "calibration")
    _check_draw(lm, 1, length, seed)
    generator, windows = np.random.default_rng(seed), []
    for part in split.parts or [split]:
        tokens = _stream(lm.tokenizer, part, generator, None)
        if len(tokens) < length:
            raise _too_short(part, len(tokens), 1, length)
        windows.append(tokens[: len(tokens) // length * length].reshape(-1, length))
    lm.check_tokens(np.concatenate(windows))
    return np.concatenate(windows)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens."""
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return encoded


def _sample(lm: LM, split: CorpusSplit, samples: int, length: int, seed: int, task: str) -> CalibrationSet:
    task = task_of(lm, task)
    _check_draw(lm, samples, length, seed)
    generator = np.random.default_rng(seed)
    counts = shares(samples, len(split.parts)) if split.parts else [samples]
    drawn = zip(split.parts or [split], counts, strict=True)
    windows = np.concatenate([_windows(lm, part, count, length, generator) for part, count in drawn])
    if not task:
        texts = lm.tokenizer.batch_decode(windows.tolist())
        return CalibrationSet(windows, source=split.corpus, source_hash=split.source_hash, seed=seed, texts=texts)
    pairs = make_pairs(lm, windows, task, generator)
    return CalibrationSet(
        pairs.inputs,
        decoder_input_ids=pairs.decoder_inputs,
        labels=pairs.labels,
        task=task,
        source=split.corpus,
        source_hash=split.source_hash,
        seed=seed,
        texts=readable(lm, pairs.inputs),
        target_texts=readable(lm, pairs.labels),
    )


def _check_draw(lm: LM, samples: int, length: int, seed: int) -> None:
    positions = lm.family.geometry(lm.settings).get("positions", length)
    if samples < 1 or length < 2:
        raise CorpusError(f"{samples} windows of {length} tokens cannot be drawn.", "Ask for 1 or more, of 2 or more.")
    if length > positions:
        raise CorpusError(
            f"Windows of {length} tokens are longer than the {positions} positions of {lm.source.name}.",
            f"Use windows of {positions} tokens or fewer.",
        )
    if seed < 0:
        raise CorpusError(f"A seed cannot be negative, such as {seed}.", "Use 0 or more.")


def _windows(lm: LM, split: CorpusSplit, samples: int, length: int, generator: np.random.Generator) -> np.ndarray:
    """int64 (samples, length), in the order drawn.

    Raises:
        CorpusError: the text is too short for them.
        ModelError: a window has a token without an embedding.
    """
    tokens = _stream(lm.tokenizer, split, generator, samples * length * SPREAD)
    starts = _starts(len(tokens), samples, length, generator)
    if starts is None:
        raise _too_short(split, len(tokens), samples, length)
    windows = np.asarray(tokens[starts[:, None] + np.arange(length)])
    lm.check_tokens(windows)
    return windows


def _too_short(split: CorpusSplit, tokens: int, samples: int, length: int) -> CorpusError:
    return CorpusError(
        f"The {split.name} text of {split.corpus} has {tokens:,} tokens, too few for {samples} different windows of "
        f"{length}.",
        "Give more text, or ask for fewer or shorter windows.",
    )


def _stream(
    tokenizer: PreTrainedTokenizerBase, split: CorpusSplit, generator: np.random.Generator, enough: int | None
) -> np.ndarray:
    """int64 (T,): tokens of documents in random order, with separators between, until there are `enough`; None: all."""
    separator = tokenize(tokenizer, [SEPARATOR])[0]
    order = [split.documents[index] for index in generator.permutation(len(split.documents))]
    stream: list[int] = []
    for first in range(0, len(order), BATCH):
        for tokens in tokenize(tokenizer, order[first : first + BATCH]):
            stream += [*separator, *tokens] if stream else tokens
        if enough is not None and len(stream) >= enough:
            break
    return np.array(stream, dtype=np.int64)


def _starts(tokens: int, samples: int, length: int, generator: np.random.Generator) -> np.ndarray | None:
    """int64 (samples,) first positions of the windows, in the order drawn; None where the text is too short."""
    slots = tokens // length
    if slots >= samples:  # side by side, from a random offset
        offset = generator.integers(tokens - slots * length + 1)
        return np.asarray(offset + length * generator.choice(slots, samples, replace=False))
    places = tokens - length + 1
    return np.asarray(generator.choice(places, samples, replace=False)) if places >= samples else None
