"""Expected memory of a recipe's steps in words, and advice where it does not fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nirvana.estimation.estimate import subject_of
from nirvana.estimation.recipe import peak_of
from nirvana.estimation.results import StepEstimate
from nirvana.models.inspection import ModelPreview
from nirvana.reporting.text import megabytes
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import ModelCard
from nirvana.saliency.budget import MICRO_BATCHES, RECOMPUTE

LAZY = "leave the weights on disk (weights lazy, on the Model page)"
LESS = {
    "calibrate": "Use fewer or shorter samples or probes",
    "score": "Use fewer or shorter calibration samples",
    "statistics": 'Use the compensation "bias", which needs no second moments',
    "sensitivity": "Use fewer or shorter probes",
    "prune": 'Use the compensation "none" or "bias"',
    "perplexity": "Use a shorter window",
    "divergence": "Use fewer or shorter probes",
    "zero-shot": "Leave out the zero-shot tasks",
}


class Expected(NamedTuple):
    """The part of some steps that needs most memory, with the `free` bytes of its device."""

    largest: StepEstimate
    free: int
    recipe: Recipe

    @property
    def peak(self) -> int:
        return self.largest.memory.peak

    @property
    def fits(self) -> bool:
        return self.peak <= self.free

    @property
    def words(self) -> str:
        """E.g. "1.44 GB peak of 8.1 GB free"."""
        return f"{megabytes(self.peak)} peak of {megabytes(self.free)} free"

    @property
    def shortage(self) -> tuple[str, str]:
        """Message and hint where it does not fit; two empty texts where it does."""
        if self.fits:
            return "", ""
        short = f"This is expected to need {megabytes(self.peak)} for {NAMES.get(self.largest.step, self.largest.step)}"
        return f"{short}; {megabytes(self.free)} are free.", self._advice()

    @property
    def note(self) -> str:
        """The slower way that memory forces, in a sentence; else empty."""
        if self.fits and self.largest.settings.get("strategy") == RECOMPUTE and self.recipe.model.weights != "lazy":
            return "Activations are recomputed, which is slower: micro-batches do not fit the free memory."
        return ""

    def _advice(self) -> str:
        step, settings, model = self.largest.step, self.largest.settings, self.recipe.model
        ways = [LESS[step]] if step in LESS else []
        if step == "score" and settings.get("strategy") == MICRO_BATCHES:
            ways.insert(0, "Use the strategy recompute")
        if step == "recover":
            if not settings.get("checkpointing"):
                ways.append("Compute activations again (checkpointing always)")
            if self.recipe.recovery.micro_batch > 1:
                ways.append("Lower the micro-batch")
            if not self.recipe.recovery.options.adapter_rank:
                ways.append("Train adapters (method lora, or a rank)")
        if model.dtype in ("auto", "float32"):
            ways.append("Use bfloat16")
        if model.weights == "memory" and step != "recover":
            ways.append(LAZY[0].upper() + LAZY[1:])
        ways.append("Use another device, or close other programs")
        first, *rest = ways
        return ", ".join([first, *(way[0].lower() + way[1:] for way in rest[:-1])]) + (
            f", or {rest[-1][0].lower()}{rest[-1][1:]}." if rest else "."
        )


NAMES = {
    "load": "loading the model",
    "calibrate": "the choice by KL",
    "score": "scoring",
    "statistics": "the statistics of the compensation",
    "sensitivity": "the loss curves",
    "allocate": "the allocation",
    "prune": "pruning",
    "recover": "training",
    "perplexity": "the perplexity",
    "divergence": "the divergence",
    "zero-shot": "the zero-shot tasks",
}


def expected_memory(
    todo: Iterable[str], recipe: Recipe, model: ModelPreview | ModelCard, device: str, free: int
) -> Expected | None:
    """Expected peak of the steps `todo` of a recipe; None where nothing is computed.

    Args:
        model: the description of the recipe's model.
        device: that computes.
        free: its free bytes, those of the model that a worker already holds included.

    Raises:
        ModelError: the recipe's dtype is unknown, or its weights cannot stay on disk.
    """
    preview = model if isinstance(model, ModelPreview) else _preview(model)
    found = peak_of(todo, subject_of(preview, recipe, device, free))
    return Expected(found, free, recipe) if found is not None else None


def _preview(card: ModelCard) -> ModelPreview:
    return ModelPreview(card.name, card.origin, card.note, card.family, card.layout, card.geometry, card.dtype)
