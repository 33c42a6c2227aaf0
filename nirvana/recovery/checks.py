"""Measurements on held-out text during a recovery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.sampling import sample_probe
from nirvana.calibration.sets import CalibrationSet
from nirvana.forward.bounds import chunk_positions
from nirvana.forward.chunks import hidden_batches
from nirvana.forward.tokens import UNLABELLED, read_labels
from nirvana.models.lm import LM
from nirvana.recovery.options import RecoveryOptions

WINDOWS = 8  # of each text


class HeldOut:
    """Measures a model on windows of the probe split of each text: `perplexity, kl = held_out(lm)`.

    One pass over the windows gives both. The evaluation split stays unread, so that the measurements which follow a
    recovery are of text that its best step was not chosen on.

    Attributes:
        dense: the teacher's perplexity by text, once it was measured.
    """

    def __init__(self, texts: Mapping[str, Corpus], teacher: LM | None, options: RecoveryOptions) -> None:
        self._texts, self._teacher, self._options = texts, teacher, options
        self._windows: dict[str, CalibrationSet] = {}
        self.dense: dict[str, float] = {}
        self._taught: dict[str, torch.Tensor] = {}  # (positions, H) of the dense model

    @property
    def protocol(self) -> dict[str, Any]:
        """How the texts are measured, as JSON values."""
        return {"split": "probe", "windows": WINDOWS, "window": self._options.length}

    def __call__(self, lm: LM) -> tuple[dict[str, float], dict[str, float]]:
        """Perplexity and, with a teacher, KL( dense || `lm` ) in nats a token, by text."""
        read, kl = dict[str, float](), dict[str, float]()
        for name in self._texts:
            windows = self._drawn(lm, name)
            labels = read_labels(windows).flatten().to(lm.device)
            counted = None if windows.counted is None else torch.from_numpy(windows.counted.ravel()).to(lm.device)
            loss, divergence, taught = [], [], []
            for part, log_q in _log_probabilities(lm, _states(lm, windows)):
                own = labels[part]
                known = (own != UNLABELLED).nonzero().flatten()
                loss.append(-log_q[known, own[known]])
                if self._teacher is not None:
                    log_p = self._dense(self._teacher, name, part)
                    each = torch.linalg.vecdot(log_p.exp(), log_p - log_q)
                    divergence.append(each if counted is None else each[counted[part]])
                    taught.append(-log_p[known, own[known]])
            read[name] = _perplexity(loss)
            if divergence:
                self.dense[name] = _perplexity(taught)
                kl[name] = torch.cat(divergence).double().mean().item()
        return read, kl

    def _drawn(self, lm: LM, name: str) -> CalibrationSet:
        if name not in self._windows:
            drawn: dict[str, Any] = {"samples": WINDOWS, "length": self._options.length, "seed": self._options.seed}
            self._windows[name] = sample_probe(lm, self._texts[name], **drawn)
            if self._teacher is not None:
                self._taught[name] = _states(self._teacher, self._windows[name])
        return self._windows[name]

    def _dense(self, teacher: LM, name: str, part: slice) -> torch.Tensor:
        with torch.inference_mode():
            logits = teacher.family.head(teacher.weights())(self._taught[name][part])
            return torch.log_softmax(logits.float(), dim=-1)


def _perplexity(losses: list[torch.Tensor]) -> float:
    return float(np.exp(torch.cat(losses).double().mean().item()))


def _states(lm: LM, windows: CalibrationSet) -> torch.Tensor:
    """(positions, H) hidden states of all windows."""
    return torch.cat([states.flatten(0, 1) for _, states in hidden_batches(lm, windows.tokens, windows.decoder_tokens)])


def _log_probabilities(lm: LM, states: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """A few hundred positions at a time: where they are, and (positions, V) float32 log-probabilities."""
    head = lm.family.head(lm.weights())
    size = chunk_positions(head.weight.shape[0])
    for start in range(0, len(states), size):
        part = slice(start, start + size)
        with torch.inference_mode():
            yield part, torch.log_softmax(head(states[part]).float(), dim=-1)
