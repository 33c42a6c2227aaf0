"""Batches of instructions: one record a row, padded, with the loss on its answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from nirvana.calibration.corpora.corpus import CorpusSplit
from nirvana.calibration.tasks import start_token
from nirvana.errors import RecoveryError
from nirvana.forward.tokens import UNLABELLED
from nirvana.models.lm import LM
from nirvana.recovery.batches import Batch, Epochs
from nirvana.recovery.options import RecoveryOptions

CHUNK = 512  # documents that are tokenised together


class Row(NamedTuple):
    """Tokens of one record: S inputs, and T of the decoder where there is one, with their labels; int32."""

    inputs: np.ndarray  # (S,)
    decoder: np.ndarray | None  # (T,)
    labels: np.ndarray  # (T,), or (S,) without an encoder


class Instructions(Epochs):
    """The records of the calibration split, as LLM-Pruner and NIRVANA train on them.

    A decoder reads the prompt, the answer and an end token, cut after `options.length` tokens; labels are those of the
    answer or, where prompts are "counted", all. An encoder reads the prompt, and the answer is the decoder's. A record
    without an answer, or whose prompt leaves no room for it, is left out.

    Raises:
        RecoveryError: no record is left.
    """

    def __init__(self, lm: LM, splits: Sequence[CorpusSplit], options: RecoveryOptions) -> None:
        self._records = [row for split in splits for row in _rows(lm, split, options)]
        if not self._records:
            raise RecoveryError(
                f"No record has an answer, and room for it in {options.length} tokens.", "Give a larger length."
            )
        lm.check_tokens(np.concatenate([each for row in self._records for each in (row.inputs, row.labels)]))
        super().__init__(lm, options, len(self._records))
        self.longest = max(len(each) for row in self._records for each in (row.inputs, row.labels))

    def of_step(self, step: int) -> Iterator[Batch]:
        chosen = [self._records[index] for index in self.rows_of(step)]
        for first in range(0, len(chosen), self._options.micro_batch):
            yield _padded(chosen[first : first + self._options.micro_batch])


def _rows(lm: LM, split: CorpusSplit, options: RecoveryOptions) -> Iterator[Row]:
    documents = [
        (text[:size], text[size:])
        for text, size in zip(split.documents, split.prompts, strict=True)
        if text[size:].strip()
    ]
    make = _pair if lm.family.encoder_decoder else _joined
    for first in range(0, len(documents), CHUNK):
        yield from make(lm, documents[first : first + CHUNK], options)


def _pair(lm: LM, documents: Sequence[tuple[str, str]], options: RecoveryOptions) -> Iterator[Row]:
    """The prompt for the encoder, the answer for the decoder."""
    end = lm.tokenizer.eos_token_id
    prompts, answers = (_tokens(lm, list(texts)) for texts in zip(*documents, strict=True))
    for prompt, answer in zip(prompts, answers, strict=True):
        inputs, labels = (_ended(ids, end, options.length) for ids in (prompt, answer))
        yield Row(_array(inputs), _array([start_token(lm), *labels[:-1]]), _array(labels))


def _joined(lm: LM, documents: Sequence[tuple[str, str]], options: RecoveryOptions) -> Iterator[Row]:
    """Prompt and answer as one text."""
    end = lm.tokenizer.eos_token_id
    prompts = _tokens(lm, [prompt for prompt, _ in documents])
    for prompt, ids in zip(prompts, _tokens(lm, [prompt + answer for prompt, answer in documents]), strict=True):
        if end is not None and ids[-1] != end:
            ids = [*ids, end]
        ids = ids[: options.length]
        # The first token that differs belongs to the answer: a token may span the end of the prompt.
        differ = (at for at, (one, two) in enumerate(zip(prompt, ids, strict=False)) if one != two)
        begin = next(differ, len(prompt))
        if begin < len(ids):
            known = max(begin, 1) if options.prompts == "masked" else 1
            labels = [UNLABELLED] * (known - 1) + ids[known:] + [UNLABELLED]
            yield Row(_array(ids), None, _array(labels))


def _array(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.int32)


def _ended(ids: list[int], end: int | None, length: int) -> list[int]:
    """`ids` with the end token once, at most `length` in all."""
    if end is None:
        return ids[:length]
    return [*(ids[:-1] if ids[-1:] == [end] else ids)[: length - 1], end]


def _tokens(lm: LM, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, with the special tokens that the model's tokenizer adds."""
    found: list[list[int]] = lm.tokenizer(texts, verbose=False)["input_ids"]
    return found


def _padded(rows: Sequence[Row]) -> Batch:
    inputs = _stacked([row.inputs for row in rows], 0)
    mask = _stacked([np.ones_like(row.inputs) for row in rows], 0)
    labels = _stacked([row.labels for row in rows], UNLABELLED)
    decoder = None if rows[0].decoder is None else _stacked([row.decoder for row in rows if row.decoder is not None], 0)
    tokens = sum(len(row.labels) for row in rows)
    return Batch(inputs, None if bool(mask.all()) else mask, decoder, labels, labels != UNLABELLED, tokens)


def _stacked(rows: Sequence[np.ndarray], fill: int) -> torch.Tensor:
    """Rows of different lengths as one int64 tensor, filled up on the right."""
    stacked = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for place, row in zip(stacked, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(stacked)
