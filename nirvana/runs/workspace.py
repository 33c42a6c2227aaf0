"""The workspace of a recipe: its calibration set, probe, scores, plan, pruned and recovered model."""

from __future__ import annotations

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.sets import CalibrationSet
from nirvana.compensation.statistics import Statistics
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback, within
from nirvana.runs.compensation import check_compensation, statistics_windows
from nirvana.runs.planning import Planning
from nirvana.runs.recovery import has_weights, keep_weights, load_recovered, train


class Workspace(Planning):
    """Assembles each part of a recipe on first use.

    `calibration`, `saliency`, `plan` and `pruned` return results; `choose_calibration`, `score_units`, `make_plan` and
    `prune_model` compute them. The workspace of a run returns the run's results; any other computes them on first use.
    Computed results are cached on disk by the hash of their inputs, across workspaces and runs.

    Long methods have a `progress`, by default the workspace's own, which may raise `Cancelled`.

    Attributes, beside those of `Inputs`:
        origins: "cached" and "seconds" of each computed result, by step, and of the "statistics".
        run: the run with the results; None for a recipe alone.
    """

    def pruned(self, progress: ProgressCallback | None = None) -> LM:
        """The pruned model, pruned again if it is not in memory.

        Raises:
            RunError: it would differ from the run's measured model.
            NirvanaError: see `prune_model`.
        """
        small = self.prune_model(progress)
        if self.run is not None:
            check_compensation(self.run.pruned(), self.lm, small)
        return small

    def recovered(self, progress: ProgressCallback | None = None) -> LM:
        """The recovered model: that of the run, or without a run trained on the first call.

        Raises:
            RunError: the run's weights are missing or damaged.
            NirvanaError: see `recover_model`.
        """
        run, small = self.run, self.pruned(progress)
        if run is None:
            return self.models.recovered(small, self.recipe.fingerprint("recover"), lambda: self._train(progress))
        stored = str((run.info("recover") or {}).get("weight_hash"))
        return self.models.recovered(small, stored, lambda: load_recovered(run, small))

    def recover_model(self, progress: ProgressCallback | None = None) -> LM:
        """Train the pruned model by the recipe; a run stores its weights.

        Raises:
            NirvanaError: see `nirvana.recover`.
        """
        healed = self._train(progress)
        if self.run is not None:
            keep_weights(self.run, healed)
        return self.models.recovered(self.pruned(progress), healed.hash, lambda: healed)

    def _train(self, progress: ProgressCallback | None) -> LM:
        small, text = self.pruned(progress), self.recovery_text(progress)
        return train(self.run, self.recipe, small, self.lm, text, progress or self.progress)

    def recovery_text(self, progress: ProgressCallback | None = None) -> Corpus:
        """The text that the pruned model is trained on.

        Raises:
            CorpusError: it cannot be read, or the calibration text has changed.
        """
        named = self.recipe.recovery.corpus
        return self.corpus(named) if named else self.calibration_text(progress)

    def final(self, progress: ProgressCallback | None = None) -> LM:
        """The model that the recipe ends in: recovered if it trains, else pruned."""
        return self.recovered(progress) if "recover" in self.recipe.steps else self.pruned(progress)

    def subjects(self, progress: ProgressCallback | None = None) -> dict[str, LM]:
        """The models to compare: "dense", "pruned" and, if the recipe trains and a run has the weights, "recovered"."""
        found = {"dense": self.lm, "pruned": self.pruned(progress)}
        trained = "recover" in self.recipe.steps and (self.run is None or has_weights(self.run))
        return found | ({"recovered": self.recovered(progress)} if trained else {})

    def prune_model(self, progress: ProgressCallback | None = None, *, plan: PruningPlan | None = None) -> LM:
        """Prune by a plan, by default the recipe's, with the recipe's compensation.

        Raises:
            NirvanaError: see `nirvana.prune`, `collect_statistics` and `sample_calibration`.
        """
        lm, plan, method = self.lm, plan or self.plan(progress), self.recipe.prune.compensation
        progress = progress or self.progress
        if method == "none":
            return self.models.pruned(lm, plan, progress=progress)
        windows = statistics_windows(self.recipe, lm, self.calibration_text(progress))
        return self.models.pruned(
            lm,
            plan,
            compensation=method,
            statistics=lambda: self._collect(windows, within(progress, "Statistics", 0, 2)),
            source=[windows.hash, windows.source, windows.seed],
            progress=within(progress, "Pruning", 1, 2),
        )

    def statistics(self, progress: ProgressCallback | None = None) -> Statistics | None:
        """The statistics of the recipe's compensation; None without one.

        Raises:
            NirvanaError: see `collect_statistics` and `sample_calibration`.
        """
        if self.recipe.prune.compensation == "none":
            return None
        windows = statistics_windows(self.recipe, self.lm, self.calibration_text(progress))
        return self._collect(windows, progress or self.progress)

    def _collect(self, windows: CalibrationSet, progress: ProgressCallback | None) -> Statistics:
        second = self.recipe.prune.compensation == "least_squares"
        found, self.origins["statistics"] = self._statistics.collect(self.lm, windows, second=second, progress=progress)
        return found
