"""Batches of a recovery: windows of text, drawn anew for each step or all of them once an epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.sampling import all_windows, sample_calibration
from nirvana.calibration.sets import CalibrationSet
from nirvana.calibration.tasks import make_pairs, task_of
from nirvana.forward.tokens import UNLABELLED, read_labels, read_tokens
from nirvana.models.lm import LM
from nirvana.recovery.options import RecoveryOptions

ROUND = 8  # steps whose windows are drawn together


class Batch(NamedTuple):
    """Rows that pass through the model together. With an encoder, the T positions are the decoder's; else T is S.

    `labels` are -100 where there is none. `counted` marks the positions that count in a loss; None for all. `tokens` is
    the number of tokens after which the model predicts, without padding.
    """

    input_ids: torch.Tensor  # (B, S)
    attention_mask: torch.Tensor | None  # (B, S)
    decoder_input_ids: torch.Tensor | None  # (B, T)
    labels: torch.Tensor  # (B, T)
    counted: torch.Tensor | None  # (B, T) booleans
    tokens: int

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        inputs, mask, decoder, labels, counted = (None if each is None else each.to(device) for each in self[:-1])
        assert inputs is not None and labels is not None
        return Batch(inputs, mask, decoder, labels, counted, self.tokens)

    def positions(self, method: str) -> int:
        """Number of positions in the loss of `method`: those with a label, or of "distill" all that count."""
        if method != "distill":
            return int((self.labels != UNLABELLED).sum())
        return self.labels.numel() if self.counted is None else int(self.counted.sum())


class Batches(ABC):
    """The batches of each step, the same for the same step: `batches.of_step(0)`, on the CPU.

    Attributes:
        steps: of an epoch; 0 where rows are drawn without end.
        longest: the most tokens of a row that the blocks read.
    """

    steps: int = 0
    longest: int

    def __init__(self, lm: LM, options: RecoveryOptions) -> None:
        self._lm, self._options = lm, options

    @abstractmethod
    def of_step(self, step: int) -> Iterator[Batch]:
        """Micro-batches of a step, counted from 0."""

    def _read(self, windows: CalibrationSet, rows: slice) -> Iterator[Batch]:
        tokens, labels = read_tokens(self._lm, windows), read_labels(windows)
        for first in range(rows.start, rows.stop, self._options.micro_batch):
            part = slice(first, min(first + self._options.micro_batch, rows.stop))
            inputs, mask, decoder, counted = (None if each is None else each[part] for each in tokens)
            assert inputs is not None
            yield Batch(inputs, mask, decoder, labels[part], counted, tokens.outputs[part].numel())


class DrawnWindows(Batches):
    """Windows drawn at random from the calibration split, by the seed and the step."""

    def __init__(self, lm: LM, text: Corpus, options: RecoveryOptions) -> None:
        super().__init__(lm, options)
        self._text, self.longest = text, options.length
        self._round: tuple[int, CalibrationSet] | None = None

    def of_step(self, step: int) -> Iterator[Batch]:
        options, number = self._options, step // ROUND
        if self._round is None or self._round[0] != number:
            seed = options.seed * 1_000_003 + number
            drawn = sample_calibration(
                self._lm, self._text, samples=options.batch * ROUND, length=options.length, seed=seed
            )
            self._round = number, drawn
        first = (step % ROUND) * options.batch
        return self._read(self._round[1], slice(first, first + options.batch))


class Epochs(Batches):
    """Every row once an epoch, in an order by the seed and the epoch; the last step of an epoch may be smaller."""

    def __init__(self, lm: LM, options: RecoveryOptions, rows: int) -> None:
        super().__init__(lm, options)
        self._rows, self.steps = rows, -(-rows // options.batch)

    def rows_of(self, step: int) -> np.ndarray:
        """Indices of the rows of a step."""
        epoch, index = divmod(step, self.steps)
        order = np.random.default_rng([self._options.seed, epoch]).permutation(self._rows)
        return np.asarray(order[index * self._options.batch :][: self._options.batch])


class AllWindows(Epochs):
    """All windows of the calibration split, side by side."""

    def __init__(self, lm: LM, text: Corpus, options: RecoveryOptions) -> None:
        self._windows = all_windows(lm, text, length=options.length, seed=options.seed)
        super().__init__(lm, options, len(self._windows))
        self._task, self.longest = task_of(lm), options.length

    def of_step(self, step: int) -> Iterator[Batch]:
        windows = self._windows[self.rows_of(step)]
        drawn = CalibrationSet(windows)
        if self._task:
            generator = np.random.default_rng([self._options.seed, step])
            pairs = make_pairs(self._lm, windows, self._task, generator)
            drawn = CalibrationSet(pairs.inputs, decoder_input_ids=pairs.decoder_inputs, labels=pairs.labels)
        return self._read(drawn, slice(0, len(windows)))
