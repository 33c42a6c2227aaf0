"""Measurements on held-out text during a recovery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.sampling import sample_calibration
from nirvana.evaluation.divergence import DenseReference, dense_reference, divergence
from nirvana.evaluation.perplexity import perplexity
from nirvana.models.lm import LM
from nirvana.recovery.options import RecoveryOptions

TOKENS = 4_096  # of each text that perplexity is measured on
WINDOWS = 8  # of each text that KL is measured on


class HeldOut:
    """Measures a model on the evaluation split of each text: `perplexity, kl = held_out(lm)`."""

    def __init__(self, texts: Mapping[str, Corpus], teacher: LM | None, options: RecoveryOptions) -> None:
        self._texts, self._teacher, self._options = texts, teacher, options
        self._references: dict[str, DenseReference] = {}
        self._windows: dict[str, Any] = {}

    @property
    def protocol(self) -> dict[str, Any]:
        """How the texts are measured, as JSON values."""
        return {"window": self._options.length, "max_tokens": TOKENS, "probes": WINDOWS}

    def __call__(self, lm: LM) -> tuple[dict[str, float], dict[str, float]]:
        length, read, kl = self._options.length, dict[str, float](), dict[str, float]()
        for name, text in self._texts.items():
            read[name] = perplexity(lm, text, window=length, max_tokens=TOKENS).value
            if self._teacher is None:
                continue
            if name not in self._windows:
                drawn: dict[str, Any] = {"samples": WINDOWS, "length": length, "seed": self._options.seed}
                self._windows[name] = sample_calibration(lm, text.splits["evaluation"], **drawn)
                self._references[name] = dense_reference(self._teacher, self._windows[name])
            reference = self._references[name]
            kl[name] = divergence(self._teacher, lm, self._windows[name], reference=reference).mean
        return read, kl
