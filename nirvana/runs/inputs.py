"""Inputs of a recipe: its model and its texts, opened once."""

from __future__ import annotations

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.mixture import all_of, load_parts
from nirvana.calibration.corpora.registry import SELF_GENERATED, load_corpus
from nirvana.calibration.generation import generate_corpus
from nirvana.calibration.sampling import sample_probe
from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import RunError
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.recipe import Recipe


class Inputs:
    """The dense model and the texts of a recipe, opened on first use.

    Attributes:
        recipe: the choices.
        models: models in memory, shared with other workspaces.
        corpora: open texts by name.
        weights: required hash of the model; empty for any.
        progress: called while the model is loaded or writes text; may raise `Cancelled`.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        lm: LM | None,
        models: ModelCache | None,
        corpora: dict[str, Corpus] | None,
        weights: str,
        progress: ProgressCallback | None,
    ) -> None:
        """The inputs of `recipe`; `lm` replaces its model."""
        self.recipe, self.weights, self.progress = recipe, weights, progress
        self.models = ModelCache() if models is None else models
        self.corpora = {} if corpora is None else corpora
        self._lm = lm

    @property
    def lm(self) -> LM:
        """The dense model, loaded if it is not in memory.

        Raises:
            ModelError: it cannot be found, read or fitted in memory.
            RunError: its files have changed since the run's results were computed.
        """
        lm = self._lm if self._lm is not None else self.models.dense(self.recipe.model, self.progress)
        if self.weights not in ("", lm.hash):
            raise RunError("The model's files have changed since this run was computed.", "Start a new run.")
        return lm

    def corpus(self, name: str) -> Corpus:
        """A text by name, or a mixture "a + b" of texts; the model writes self-generated text.

        Raises:
            CorpusError: no corpus of that name, or it is empty, too short or malformed.
        """
        if name not in self.corpora:
            report(self.progress, f"Reading {name}", 0, 0)
            self.corpora[name] = load_parts(name, self._load_corpus)
        return self.corpora[name]

    def _load_corpus(self, name: str) -> Corpus:
        if name == SELF_GENERATED.name and name not in self.corpora:
            return generate_corpus(self.lm, progress=self.progress)
        return self.corpora[name] if name in self.corpora else load_corpus(name)

    def texts(self) -> list[Corpus]:
        """The texts for the choice of the calibration set."""
        return [self.corpus(name) for name in self.recipe.calibration.texts]

    def evaluation_texts(self) -> dict[str, Corpus]:
        """The texts that perplexity is measured on, by name."""
        return {name: self.corpus(name) for name in self.recipe.evaluation.corpora}

    def recovery_texts(self) -> list[Corpus]:
        """The texts of which one is trained on: the calibration text may be chosen by KL."""
        named = self.recipe.recovery.corpus
        return [self.corpus(named)] if named else self.texts()

    def probe_text(self) -> Corpus:
        """The text that probes are drawn from: all texts, uniformly."""
        return all_of(self.texts())

    def draw_probe(self, samples: int = 0, length: int = 0) -> CalibrationSet:
        """Draw a probe uniformly from all texts, by default of the recipe's size.

        Args:
            length: tokens of each of `samples` windows, at most the model's positions.
        """
        lm, choice = self.lm, self.recipe.calibration
        longest = lm.family.geometry(lm.settings).get("positions", length)
        size = (samples, min(length, longest)) if samples else (choice.probe_samples, choice.probe_length)
        drawn = dict(zip(("samples", "length"), size, strict=True))
        return sample_probe(lm, self.probe_text(), task=choice.task, seed=choice.probe_seed, **drawn)
