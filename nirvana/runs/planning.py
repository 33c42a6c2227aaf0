"""The plan of a recipe: its calibration set, probe, scores, loss curves and plan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from nirvana.allocation.allocate import allocate
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.mixture import with_mixtures
from nirvana.calibration.sampling import sample_calibration
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.compensation import Compensation
from nirvana.costs import CostTable, CostTables
from nirvana.errors import CorpusError, RunError
from nirvana.evaluation.divergence import DenseReference, dense_reference
from nirvana.loss_curves import LEVELS, PROBE, Sensitivity
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback, within
from nirvana.runs.compensation import StatisticsCache, statistics_windows
from nirvana.runs.costs import budget_costs, known_costs
from nirvana.runs.folder import FORMATS
from nirvana.runs.inputs import Inputs
from nirvana.runs.loss_curves import cached_curves
from nirvana.runs.model_cache import ModelCache, cache_fields
from nirvana.runs.recipe import PruneChoice, Recipe
from nirvana.runs.rounds import plan_in_rounds
from nirvana.runs.run import Run
from nirvana.runs.step_cache import Origin, cache_key, through_cache, write_cached
from nirvana.saliency.score import score
from nirvana.saliency.scores import Saliency
from nirvana.selection import select_calibration

Result = TypeVar("Result")


class Planning(Inputs):
    """Assembles the parts of a recipe up to its plan; see `Workspace`."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        lm: LM | None = None,
        models: ModelCache | None = None,
        corpora: dict[str, Corpus] | None = None,
        plan: PruningPlan | None = None,
        run: Run | None = None,
        weights: str = "",
        progress: ProgressCallback | None = None,
    ) -> None:
        """The parts of `recipe`; `lm` and `plan` replace its own."""
        super().__init__(recipe, lm=lm, models=models, corpora=corpora, weights=weights, progress=progress)
        self.run = run
        self.origins: dict[str, Origin] = {}
        self._results: dict[str, Any] = {}  # calibration sets and scores by fingerprint, shared by variants
        self._plans = {} if plan is None else {recipe.fingerprint("allocation"): plan}
        self._references: dict[str, DenseReference] = {}  # by hash of the probe
        self._statistics = StatisticsCache()

    @classmethod
    def of(cls, run: Run, *, models: ModelCache | None = None, progress: ProgressCallback | None = None) -> Self:
        """The workspace of a run, whose model files must be unchanged since its results were computed.

        Raises:
            RunError: the run has no result of its model.
        """
        card = run.model()
        if card is None:
            raise _missing("model")
        return cls(run.recipe, models=models, run=run, weights=card.hash, progress=progress)

    def variant(self, recipe: Recipe) -> Self:
        """The workspace of another recipe for the same model. The two share models, texts, scores and statistics."""
        self._statistics.holds = True
        other = copy.copy(self)
        other.recipe, other.run, other.origins, other._plans = recipe, None, {}, {}
        return other

    def clear(self) -> None:
        """Release the memory of models, results, statistics and references; they are computed again on demand."""
        self._references.clear()
        self._results.clear()
        self._statistics.clear()
        if self._lm is None:
            self.models.clear()
        else:
            self.models.drop_pruned()  # the dense model belongs to the caller

    def calibration(self, progress: ProgressCallback | None = None) -> CalibrationSelection | CalibrationSet:
        """The calibration set, with the record of its choice where KL chose it."""
        return self._result("calibration", self.choose_calibration, progress)

    def calibration_set(self, progress: ProgressCallback | None = None) -> CalibrationSet:
        """The calibration set without the record of its choice."""
        chosen = self.calibration(progress)
        return chosen.calibration if isinstance(chosen, CalibrationSelection) else chosen

    def calibration_text(self, progress: ProgressCallback | None = None) -> Corpus:
        """The text of the calibration set.

        Raises:
            CorpusError: it is not among the recipe's texts any more, or one of them cannot be read.
        """
        texts, source = self.texts(), ""
        if len(texts) > 1:
            texts = with_mixtures(texts, self.recipe.calibration.mixtures)
            source = self.calibration_set(progress).source_hash
        for corpus in texts:
            if source in ("", corpus.hash):
                return corpus
        raise CorpusError("The text of the calibration set has changed.", "Choose the set again.")

    def choose_calibration(self, progress: ProgressCallback | None = None) -> CalibrationSelection | CalibrationSet:
        """Draw one calibration set, or several of which KL chooses. The scores of all of them are cached too.

        Raises:
            NirvanaError: see `sample_calibration` and `select_calibration`.
        """
        choice, lm, corpora, progress = self.recipe.calibration, self.lm, self.texts(), progress or self.progress
        drawn: dict[str, Any] = {"samples": choice.samples, "length": choice.length, "seed": choice.seed}
        drawn["task"] = choice.task
        trial = {name[6:]: value for name, value in vars(choice).items() if name.startswith("trial_")}
        if choice.trials == 1:
            return sample_calibration(lm, corpora[0], **drawn)

        def select() -> CalibrationSelection:
            selection = select_calibration(
                lm,
                corpora,
                candidates=choice.candidates,
                mixtures=choice.mixtures,
                probe=self.draw_probe(),
                progress=progress,
                **drawn,
                **trial,
            )
            for candidate in selection.candidates:  # the winner is scored next, and pages show the others
                if candidate.saliency is not None:
                    seconds = candidate.saliency.details.get("seconds")
                    key = _saliency_key(lm, candidate.calibration, choice.trial_criterion)
                    write_cached(key, candidate.saliency.to_bytes(), seconds=seconds)
            return selection

        texts = [[corpus.name, corpus.hash] for corpus in corpora]
        key = cache_key("calibration", corpora=texts, choice=repr(choice), **cache_fields(lm))
        return self._cached("calibration", key, select)

    def probe(self) -> CalibrationSet:
        """The windows for KL: those of the choice by KL, where one was made."""
        chosen = self._results.get(self.recipe.fingerprint("calibration")) if self.run is None else self.calibration()
        return chosen.probe if isinstance(chosen, CalibrationSelection) else self.draw_probe()

    def reference(
        self,
        probe: CalibrationSet | None = None,
        *,
        keep_bytes: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> DenseReference:
        """The dense model's predictions on a probe, by default the recipe's; computed once for each probe.

        Args:
            keep_bytes: see `dense_reference`.
        """
        probe = self.probe() if probe is None else probe
        if probe.hash not in self._references:
            self._references[probe.hash] = dense_reference(
                self.lm, probe, keep_bytes=keep_bytes, progress=progress or self.progress
            )
        return self._references[probe.hash]

    def saliency(self, progress: ProgressCallback | None = None) -> Saliency:
        """The score of every unit."""
        return self._result("saliency", self.score_units, progress)

    def score_units(self, progress: ProgressCallback | None = None) -> Saliency:
        """Score every unit with the calibration set; its seed is also that of random scores.

        Raises:
            NirvanaError: see `score`.
        """
        criterion, calibration, lm = self.recipe.saliency.criterion, self.calibration_set(progress), self.lm
        seed, progress = calibration.seed or 0, progress or self.progress
        return self._cached(
            "saliency",
            _saliency_key(lm, calibration, criterion),
            lambda: score(lm, calibration, criterion=criterion, seed=seed, progress=progress),
        )

    def plan(self, progress: ProgressCallback | None = None) -> PruningPlan:
        """The pruning plan."""
        return self._result("allocation", self.make_plan, progress)

    def make_plan(self, progress: ProgressCallback | None = None) -> PruningPlan:
        """Allocate the sparsity by the scores.

        Raises:
            NirvanaError: see `allocate` and, for the measured allocation, `sensitivity`.
        """
        choice, scores = self.recipe.allocation, self.saliency(progress)
        curves, rest = None, progress or self.progress
        costs = self.costs(progress)
        if choice.method == "measured":
            parts = 1 if choice.rounds == 1 else 2
            curves = self.loss_curves(progress=within(rest, "Loss curves", 0, parts))
            rest = within(rest, "Rounds", 1, parts)
            if self.run is not None and not self.run.is_example:
                self.run.attach("sensitivity", curves)
        if choice.rounds == 1:
            return allocate(scores, sensitivity=curves, costs=costs, **choice.one_round)
        windows = self._usual_windows("least_squares", progress)
        plan, self.origins["allocation"] = plan_in_rounds(
            self.lm, self.recipe, scores, self.calibration_set(progress), windows, curves, costs, rest
        )
        return plan

    def costs(self, progress: ProgressCallback | None = None) -> CostTable | None:
        """The cost table of the allocation's budget, measured once for a device and a shape of model; None for a budget
        in parameters, and for bytes of one dtype. A run keeps measured ones.

        Raises:
            ModelError: see `nirvana.measure_costs`.
        """
        choice, run = self.recipe.allocation, self.run
        found = known_costs(run, choice) if run is not None else None
        if found is None and choice.budget != "parameters":
            found = budget_costs(self.lm, choice, progress or self.progress)
            if found is not None and choice.budget == "latency" and run is not None and not run.is_example:
                run.attach("costs", (run.costs() or CostTables()).adding(CostTables((found,))))
        return found

    def loss_curves(
        self,
        levels: Sequence[float] = LEVELS,
        compensation: Compensation = "least_squares",
        probe: tuple[int, int] | None = PROBE,
        progress: ProgressCallback | None = None,
    ) -> Sensitivity:
        """Loss curves with the recipe's scores, by default those of the measured allocation.

        What an interrupted call has measured is cached, and the next one continues from there.

        Args:
            levels: see `sensitivity`.
            compensation: its statistics are of the windows that a recipe draws where it sets none.
            probe: windows and tokens of each, as many as the model has positions; None for the recipe's probe.

        Raises:
            NirvanaError: see `sensitivity`, `collect_statistics` and `sample_probe`.
        """
        progress, lm, scores = progress or self.progress, self.lm, self.saliency(progress)
        windows, collect = None, None
        if compensation != "none":
            windows = self._usual_windows(compensation, progress)
            collect = partial(self._statistics.collect, lm, windows, second=compensation == "least_squares")
        drawn = self.probe() if probe is None else self.draw_probe(*probe)
        curves, self.origins["curves"] = cached_curves(
            lm,
            scores,
            drawn,
            levels=levels,
            compensation=compensation,
            windows=windows.hash if windows else "",
            collect=collect,
            progress=progress,
        )
        return curves

    def _usual_windows(self, compensation: Compensation, progress: ProgressCallback | None) -> CalibrationSet:
        """The windows that a recipe with this compensation draws where it sets none."""
        usual = self.recipe.with_values(prune=PruneChoice(compensation=compensation))
        return statistics_windows(usual, self.lm, self.calibration_text(progress))

    def _result(
        self, step: str, compute: Callable[[ProgressCallback | None], Result], progress: ProgressCallback | None
    ) -> Result:
        """The result of a step: the run's, or without a run the first one computed."""
        if self.run is not None:
            stored: Result | None = self.run.steps.read(step)
            if stored is None:
                raise _missing(step)
            return stored
        computed: dict[str, Any] = self._plans if step == "allocation" else self._results
        fingerprint = self.recipe.fingerprint(step)
        if fingerprint not in computed:
            computed[fingerprint] = compute(progress)
        found: Result = computed[fingerprint]
        return found

    def _cached(self, step: str, key: str, compute: Callable[[], Result]) -> Result:
        result: Result
        result, self.origins[step] = through_cache(key, FORMATS[step].read, FORMATS[step].write, compute)
        return result


def _missing(step: str) -> RunError:
    return RunError(f"The {step} result of this run is missing or damaged.", "Run it again to compute that step.")


def _saliency_key(lm: LM, calibration: CalibrationSet, criterion: str) -> str:
    drawn = {"calibration": calibration.hash, "seed": calibration.seed or 0}
    return cache_key("saliency", criterion=criterion, **drawn, **cache_fields(lm))
