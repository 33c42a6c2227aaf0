"""The cells of a matrix: one pruned model a row, each of its measurements through the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from os import PathLike, fspath
from typing import Any

from nirvana.allocation.allocate import allocate
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.mixture import all_of
from nirvana.calibration.sampling import sample_calibration
from nirvana.evaluation.divergence import DenseReference, dense_reference
from nirvana.evaluation.perplexity import check_text
from nirvana.evaluation.results import Measurement
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, within
from nirvana.runs.cached import draw_probe, open_corpus, score_units
from nirvana.runs.compensated import draw_statistics_set, pruned_model
from nirvana.runs.measurements import divergence_of, perplexity_of
from nirvana.runs.models import Models, numerics
from nirvana.runs.recipe import Recipe
from nirvana.studies.matrix import used
from nirvana.studies.matrix_rows import MatrixRow


class Cells:
    """Computes rows for one model and one set of texts.

    Attributes:
        rows: texts to calibrate on by name, the mixture of all last where it is wanted.
        columns: texts to measure on.
        protocol: what the numbers depend on, as JSON values.

    Raises:
        CorpusError: a text is not to be had, or too short for its samples, probes or windows.
    """

    def __init__(
        self,
        lm: LM,
        texts: Mapping[str, str | PathLike[str] | Corpus],
        recipe: Recipe,
        mixture: bool,
        models: Models | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.lm, self.recipe, self._models = lm, recipe, models or Models()
        self.columns = {
            name: text if isinstance(text, Corpus) else open_corpus(fspath(text), lm, progress)
            for name, text in texts.items()
        }
        self.rows = dict(self.columns)
        if mixture:
            mixed = all_of(list(self.columns.values()))
            self.rows.setdefault(mixed.name, mixed)
        self.probes = {name: draw_probe(recipe.calibration, lm, [corpus]) for name, corpus in self.columns.items()}
        self._references: dict[str, DenseReference] = {}
        hashes = {name: corpus.hash for name, corpus in self.columns.items()}
        protocol = {"recipe": used(recipe), "hashes": hashes, "note": lm.source.note, **numerics(lm)}
        self.protocol: dict[str, Any] = json.loads(json.dumps(protocol))  # as it is read back
        self._check()

    def dense(self, progress: ProgressCallback | None) -> Iterator[Measurement]:
        """Perplexity of the dense model on each text."""
        for part, name in enumerate(self.columns):
            yield self._perplexity(self.lm, "dense", name, within(progress, name, part, len(self.columns)))

    def row(self, name: str, seed: int, progress: ProgressCallback | None) -> MatrixRow:
        """Score, allocate and prune with a set of one text, and measure the model on all of them."""
        recipe, corpus = self.recipe.change("calibration", seed=seed), self.rows[name]
        choice = recipe.calibration
        sizes: dict[str, Any] = {"samples": choice.samples, "length": choice.length, "seed": seed}
        calibration = sample_calibration(self.lm, corpus, task=choice.task, **sizes)
        parts = 2 + 2 * len(self.columns)
        scores, _ = score_units(recipe.saliency.criterion, self.lm, calibration, within(progress, "Scores", 0, parts))
        plan = allocate(scores, **vars(recipe.allocation))
        pruning = within(progress, "Pruning", 1, parts)
        small, _ = pruned_model(recipe, self._models, self.lm, plan, corpus=corpus, progress=pruning)
        kl, losses = [], []
        for part, text in enumerate(self.columns):
            first, second = (within(progress, text, 2 + 2 * part + half, parts) for half in (0, 1))
            reference = partial(self._reference, text, first)
            kl += divergence_of(self.lm, small, self.probes[text], first, reference=reference)
            losses.append(self._perplexity(small, "pruned", text, second))
        return MatrixRow(name, seed, plan.sparsity, tuple(kl), tuple(losses), calibration.hash)

    def _perplexity(self, lm: LM, subject: str, name: str, progress: ProgressCallback | None) -> Measurement:
        task = self.recipe.calibration.task
        found = perplexity_of(lm, subject, self.columns[name], self.recipe.evaluation, task, progress)
        return next(item for item in found if item.metric == "perplexity")

    def _reference(self, name: str, progress: ProgressCallback | None) -> DenseReference:
        """What the dense model predicts on one text's probes: hidden states alone, so that there is room for many."""
        if name not in self._references:
            self._references[name] = dense_reference(self.lm, self.probes[name], keep_bytes=0, progress=progress)
        return self._references[name]

    def _check(self) -> None:
        """Find out before the work what would fail later."""
        choice = self.recipe.calibration
        for corpus in self.rows.values():
            sizes: dict[str, Any] = {"samples": choice.samples, "length": choice.length, "seed": choice.seed}
            sample_calibration(self.lm, corpus, task=choice.task, **sizes)
            if self.recipe.prune.compensation != "none":
                draw_statistics_set(self.recipe, self.lm, corpus)
        for corpus in self.columns.values():
            check_text(self.lm, corpus, window=self.recipe.evaluation.window)
