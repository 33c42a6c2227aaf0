"""Cells of a matrix: one pruned model a row, measured through the cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from os import PathLike, fspath
from typing import Any

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.mixture import all_of
from nirvana.evaluation.perplexity import check_text
from nirvana.evaluation.results import Measurement
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, within
from nirvana.runs.compensation import check_statistics
from nirvana.runs.measurements import divergence_of, perplexity_of
from nirvana.runs.model_cache import ModelCache, cache_fields
from nirvana.runs.recipe import Recipe
from nirvana.runs.workspace import Workspace
from nirvana.studies.journal import as_read_back
from nirvana.studies.matrix_rows import MatrixRow, used


class Cells:
    """Computes rows for one model and one set of texts.

    Attributes:
        rows: calibration texts by name, with an optional mixture of all last.
        columns: texts to measure on.
        protocol: the choices and hashes behind the numbers, as JSON values.

    Raises:
        CorpusError: a text is not found or too short for its samples, probes or windows.
    """

    def __init__(
        self,
        lm: LM,
        texts: Mapping[str, str | PathLike[str] | Corpus],
        recipe: Recipe,
        mixture: bool,
        models: ModelCache | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.lm, self.recipe = lm, recipe
        self._workspace = Workspace(recipe, lm=lm, models=models, progress=progress)
        self.columns = {
            name: text if isinstance(text, Corpus) else self._workspace.corpus(fspath(text))
            for name, text in texts.items()
        }
        self.rows = dict(self.columns)
        if mixture:
            mixed = all_of(list(self.columns.values()))
            self.rows.setdefault(mixed.name, mixed)
        self._workspace.corpora |= self.rows
        self.probes = {name: self._drawn_from(name).draw_probe() for name in self.columns}
        hashes = {name: corpus.hash for name, corpus in self.columns.items()}
        protocol = {"recipe": used(recipe), "hashes": hashes, "note": lm.source.note, **cache_fields(lm)}
        self.protocol: dict[str, Any] = as_read_back(protocol)
        self._check()

    def dense(self, progress: ProgressCallback | None) -> Iterator[Measurement]:
        """Perplexity of the dense model on each text."""
        for part, name in enumerate(self.columns):
            yield self._perplexity(self.lm, "dense", name, within(progress, name, part, len(self.columns)))

    def row(self, name: str, seed: int, progress: ProgressCallback | None) -> MatrixRow:
        """Score, allocate and prune with a set of one text, and measure the model on all texts."""
        workspace, parts = self._drawn_from(name, seed=seed), 2 + 2 * len(self.columns)
        plan = workspace.plan(within(progress, "Scores", 0, parts))
        small = workspace.pruned(within(progress, "Pruning", 1, parts))
        kl, losses = [], []
        for part, text in enumerate(self.columns):
            first, second = (within(progress, text, 2 + 2 * part + half, parts) for half in (0, 1))
            reference = partial(self._workspace.reference, self.probes[text], keep_bytes=0, progress=first)
            kl += divergence_of(self.lm, small, self.probes[text], first, reference=reference)
            losses.append(self._perplexity(small, "pruned", text, second))
        return MatrixRow(name, seed, plan.sparsity, tuple(kl), tuple(losses), workspace.calibration_set().hash)

    def release(self) -> None:
        """Release the memory of models, scores and references; they are computed again on demand."""
        self._workspace.clear()

    def _perplexity(self, lm: LM, subject: str, name: str, progress: ProgressCallback | None) -> Measurement:
        task = self.recipe.calibration.task
        found = perplexity_of(lm, subject, self.columns[name], self.recipe.evaluation, task, progress)
        return next(item for item in found if item.metric == "perplexity")

    def _drawn_from(self, name: str, **values: Any) -> Workspace:
        """The workspace of the recipe with one text."""
        one: dict[str, Any] = {"corpus": name, "candidates": 1, "alternatives": (), "mixtures": False}
        return self._workspace.variant(self.recipe.change("calibration", **one, **values))

    def _check(self) -> None:
        """Check for foreseeable failures before the work."""
        for name in self.rows:
            self._drawn_from(name).calibration()
        check_statistics(self.recipe, self.lm, self.rows.values())
        for corpus in self.columns.values():
            check_text(self.lm, corpus, window=self.recipe.evaluation.window)
