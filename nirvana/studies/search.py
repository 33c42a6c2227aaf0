"""`tune`: search for the recipe that changes a model least, by KL on probe text (paper: choice by KL)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.errors import NirvanaError, PlanError, RunError, SaliencyError
from nirvana.progress import ProgressCallback
from nirvana.runs.recipe import Recipe, RecoveryChoice
from nirvana.runs.run import Run
from nirvana.saliency.criteria import available
from nirvana.schema import Distinct, Schema, option
from nirvana.studies.journal import Journal
from nirvana.studies.points import measure_points
from nirvana.studies.search_sampler import suggest
from nirvana.studies.search_space import CRITERIA, METHODS, Choices, Space
from nirvana.studies.search_trials import FILE, Correlation, Trial, correlation, ranked, recipe_of
from nirvana.studies.session import SharedSession
from nirvana.studies.study import Study

if TYPE_CHECKING:
    from nirvana.models.lm import LM
    from nirvana.runs.model_cache import ModelCache
    from nirvana.studies.search_objective import Objective

MINUTES = 10.0
BASE = Recipe().change("calibration", samples=48, length=256)
OnTrial = Callable[[Trial, Trial | None], None]


class Tuning:
    """Result of a search: `trials`, the lowest KL first, and `best`, the pruned model of the first.

    Attributes:
        failed: trials without a model.
        settings: search space and protocol, as JSON values.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        settings: dict[str, Any],
        make: Callable[[Trial], LM] | None = None,
        recovery: RecoveryChoice | None = None,
    ) -> None:
        """`recovery`: that of the best recipe; trials are not trained."""
        self.trials = ranked(trials)
        self.failed = [trial for trial in trials if trial.failure]
        self.settings = settings
        self._make, self._recovery = make, recovery or RecoveryChoice()
        self._best: LM | None = None

    @property
    def best_trial(self) -> Trial:
        """The trial with the lowest KL.

        Raises:
            RunError: no trial succeeded.
        """
        if not self.trials:
            why = self.failed[0].failure if self.failed else "There was no time for one."
            raise RunError(f"No trial succeeded. {why}", "Lower the sparsity, or give more minutes.")
        return self.trials[0]

    @property
    def best_recipe(self) -> Recipe:
        """The recipe of the best trial; raises as `best_trial`."""
        return recipe_of(self.settings, self.best_trial.choices).with_values(recovery=self._recovery)

    @property
    def best(self) -> LM:
        """The model pruned by the best recipe, which is its `recipe`; pruned on first use.

        Raises:
            RunError: no trial gave a model, or the search was read from its journal.
        """
        trial = self.best_trial
        if self._make is None:
            raise RunError("A search read from its journal has no model.", "Run the best recipe.")
        if self._best is None:
            self._best = self._make(trial)
        return self._best

    def correlation(self) -> Correlation:
        """Spearman's rank correlation of the trials' KL and perplexity, the premise of a choice by KL."""
        return correlation(self.trials)

    def to_json(self) -> dict[str, Any]:
        found = self.correlation()
        return {
            "settings": self.settings,
            "trials": [trial.to_json() for trial in self.trials],
            "failed": [trial.to_json() for trial in self.failed],
            "correlation": {"spearman": None if found.value != found.value else found.value, "n": found.n},
        }


def tune(
    lm: LM,
    corpora: str | PathLike[str] | Corpus | Sequence[str | PathLike[str] | Corpus],
    sparsity: float,
    *,
    minutes: float | None = None,
    trials: int | None = None,
    criteria: Sequence[str] = CRITERIA,
    methods: Sequence[str] = METHODS[:1],
    seed: int = 0,
    base: Recipe = BASE,
    folder: str | PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    on_trial: OnTrial | None = None,
) -> Tuning:
    """Search criterion, allocation, gamma, normalisation, calibration text and seed, compensation and protected layers.

    Each trial prunes once and is measured by its mean KL to `lm` on probes drawn uniformly from all texts, and by its
    perplexity on their probe splits. Evaluation splits are not read. The first trials are the paper's recipe and the
    benchmarks' best choices; then optuna's TPE sampler suggests. Scores and statistics are shared by all trials, so
    most trials only allocate and prune.

    Args:
        corpora: names, paths or corpora: calibration texts: each alone, a uniform mixture of all, and of each pair if
            there are three. The best recipe refers to them by name, so it can be run again only if names or paths were
            given.
        sparsity: of every trial, in (0, 1).
        minutes: time limit; the running trial is finished. Default 10 if `trials` is not given either.
        trials: limit of trials, including those of an earlier call.
        criteria: to choose from.
        methods: of allocation, to choose from: "shared" and "measured", whose loss curves take minutes for each
            calibration set and criterion.
        seed: of the search; equal trials continue equally.
        base: recipe with the choices that are not searched, such as samples and length. Its recovery is that of the
            best recipe; trials are measured before it.
        folder: stores finished trials; a stopped search resumes from it, and a different request starts from the
            beginning.
        progress: called with the progress within each trial; may raise `Cancelled`, and trials so far are kept.
        on_trial: called with each finished trial and the best so far, or None.

    Raises:
        RunError: no text, criterion, allocation or limit.
        PlanError: an allocation is unknown, or the sparsity is not in (0, 1) or out of reach with every gamma.
        CorpusError: a text is not found or too short.
    """
    if minutes is None and trials is None:
        minutes = MINUTES
    given = [corpora] if isinstance(corpora, str | PathLike | Corpus) else list(corpora)
    texts = {text.name if isinstance(text, Corpus) else fspath(text): text for text in given}
    if len(texts) < len(given):
        raise RunError("Two texts have the same name.", "Name each once; give files of one name by their paths.")
    request = SearchRequest(
        corpora=tuple(texts),
        sparsity=sparsity,
        minutes=minutes or 0,
        trials=trials or 0,
        criteria=tuple(criteria),
        methods=tuple(methods),
        seed=seed,
    )
    request.check()
    session = _Session(lm, texts, request, base, progress)
    journal = Journal(Path(folder) / FILE) if folder is not None else None

    def on_row(trial: Trial) -> None:
        if on_trial is not None:
            on_trial(trial, next(iter(ranked(session.done)), None))

    done = measure_points(session, journal, request=request.to_json(), progress=progress, on_row=on_row)
    return Tuning(done, session.settings, _maker(session.objective), base.recovery)


class SearchRequest(Schema):
    """Search space and limits; 0 minutes or trials for no limit."""

    corpora: Distinct[str] = option((), "--corpus", "calibration text; may be repeated, and mixtures are tried")
    sparsity: float = option(0.2, "--sparsity", "sparsity of every trial", gt=0, lt=1, error=PlanError)
    minutes: float = option(
        MINUTES, "--minutes", "stop after this time; the running trial is finished", ge=0, le=10_080
    )
    trials: int = option(0, "--trials", "stop after this many trials; 0 for no limit", ge=0, le=10_000)
    criteria: Distinct[str] = option(
        CRITERIA, "--criterion", "criterion to choose from; may be repeated", choices=available, error=SaliencyError
    )
    methods: Distinct[str] = option(
        METHODS[:1],
        "--method",
        "allocation to choose from, shared or measured; may be repeated",
        choices=lambda: METHODS,
        error=PlanError,
    )
    seed: int = option(0, "--seed", "seed of the search", ge=0, le=2**31 - 1)

    def check(self) -> None:
        """Validate the request as a whole.

        Raises:
            RunError: no text, criterion, allocation or limit.
        """
        if not self.minutes and not self.trials:
            raise RunError("A search needs a limit.", "Give minutes or trials.")
        Space(self.criteria, self.corpora, 1, methods=self.methods).check()


class Search(Study[SearchRequest]):
    """A search for the recipe with the lowest KL."""

    name, title, file, request, parallel = "tune", "Search", FILE, SearchRequest, True

    def check(self, run: Run, request: SearchRequest) -> None:
        super().check(run, request)
        request.check()

    def open(self, run: Run, request: SearchRequest, models: ModelCache, progress: ProgressCallback | None) -> _Session:
        lm = models.dense(run.recipe.model, progress)
        return _Session(lm, {name: name for name in request.corpora}, request, run.recipe, progress)


class _Session(SharedSession[Choices, Trial]):
    """One search: the sampler names the points, the objective measures them."""

    def __init__(
        self,
        lm: LM,
        texts: Mapping[str, str | PathLike[str] | Corpus],
        request: SearchRequest,
        base: Recipe,
        progress: ProgressCallback | None,
    ) -> None:
        from nirvana.studies.search_objective import Objective

        self._end = time.monotonic() + 60 * request.minutes if request.minutes else math.inf
        methods = tuple(method for method in METHODS if method in request.methods)
        space = Space(request.criteria, tuple(texts), len({site.layer for site in lm.layout}), methods=methods)
        self.request = request
        self.objective = Objective(lm, texts, space, request.sparsity, base, progress)
        self.space = replace(space, gammas=self.objective.gammas(space))
        self.settings = self.objective.settings | {"seed": request.seed}
        self.done: Sequence[Trial] = ()

    def read(self, data: dict[str, Any]) -> Trial:
        trial = Trial.from_json(data)
        if trial.model:
            self.objective.known.setdefault(trial.model, trial)
        return trial

    def next_beside(self, rows: Sequence[Trial], running: Sequence[Choices]) -> Choices | None:
        self.done, begun = rows, len(rows) + len(running)
        if (self.request.trials and begun >= self.request.trials) or (begun and time.monotonic() >= self._end):
            return None
        return suggest(self.space, rows, self.request.seed, self.objective.is_possible, running)

    def receive(self, donor: Run | None, rows: Sequence[dict[str, Any]]) -> None:
        self.done = [self.read(data) for data in rows]

    def accept(self, row: Trial, rows: Sequence[Trial]) -> Trial:
        self.done = rows
        return replace(row, number=self._number())

    def place(self, point: Choices, rows: Sequence[Trial]) -> tuple[str, int, int]:
        most = self.request.trials
        return f"Trial {len(rows) + 1}" + (f" of {most}" if most else ""), len(rows) + 1, most

    def measure(self, point: Choices, progress: ProgressCallback | None) -> Trial:
        return self.objective.measure(self._number(), point, progress)

    def failed(self, point: Choices, failure: str) -> Trial:
        return Trial(self._number(), point, failure=failure)

    def _number(self) -> int:
        return 1 + max((trial.number for trial in self.done), default=-1)

    def release(self) -> None:
        self.objective.release()


def _maker(objective: Objective) -> Callable[[Trial], LM]:
    def make(trial: Trial) -> LM:
        try:
            recipe = objective.recipe(trial.choices)
            return replace(objective.prune(recipe), recipe=recipe)
        except NirvanaError as error:
            raise RunError(f"The best model cannot be pruned again: {error}", "Search again.") from error

    return make
