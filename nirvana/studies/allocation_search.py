"""`search_allocation`: local search over plans of one budget, by KL on probe text.

Units are exchanged between sites of a kind while KL falls (EvoPress, arXiv 2410.14649). KL on the text that chooses is
biased by the choice, so every better plan is also measured on a probe that does not choose.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nirvana.allocation.constraints import Constraints, lowest_go
from nirvana.allocation.exchanges import Exchange, draw_exchanges, exchanged
from nirvana.allocation.widths import with_widths
from nirvana.calibration.corpora.corpus import Text
from nirvana.calibration.sampling import sample_probe
from nirvana.calibration.sets import CalibrationSet
from nirvana.compensation import REGULARISATION, Compensation
from nirvana.errors import PlanError, RunError
from nirvana.layout import Site
from nirvana.loss_curves import PROBE
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback, within
from nirvana.runs.run import Run
from nirvana.saliency.scores import Saliency
from nirvana.schema import Schema, option
from nirvana.studies.allocation_steps import FILE, SearchStep, accepted, best_widths, changed_widths
from nirvana.studies.journal import Journal, as_read_back
from nirvana.studies.points import measure_points
from nirvana.studies.session import Session
from nirvana.studies.study import Study

if TYPE_CHECKING:
    from nirvana.compensation.statistics import Statistics
    from nirvana.models.lm import LM
    from nirvana.runs.model_cache import ModelCache

MINUTES = 10.0
SKIPPED = 64  # steps without an exchange before the search ends
SEED_OF_PROBES = 42


@dataclass(frozen=True)
class AllocationSearch:
    """Result of a search from the plan `start`; `steps` in order, the start first, and its `settings`."""

    start: PruningPlan
    steps: tuple[SearchStep, ...]
    settings: dict[str, Any]
    saliency: Saliency

    @property
    def best(self) -> SearchStep:
        """The last accepted step.

        Raises:
            RunError: the start could not be measured.
        """
        found = accepted(self.steps)
        if not found:
            why = self.steps[0].failure if self.steps else "There was no time."
            raise RunError(f"No plan was measured. {why}", "Search for longer.")
        return found[-1]

    @property
    def widths(self) -> dict[Site, int]:
        """Kept units of the sites that differ from the start, for `nirvana.allocate`."""
        return changed_widths(self.start.widths, self.steps)

    @cached_property
    def plan(self) -> PruningPlan:
        """The best plan."""
        note = f"{len(self.widths)} modules were changed by a search of {len(self.steps) - 1} steps."
        kept = with_widths(self.saliency, self.start.kept, self.widths, self.start.protected)
        return replace(self.start, kept=kept, notes=(note, *self.start.notes))


def search_allocation(
    lm: LM,
    saliency: Saliency,
    plan: PruningPlan,
    text: Text,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    samples: int = PROBE[0],
    length: int = PROBE[1],
    compensation: Compensation = "none",
    statistics: Statistics | None = None,
    regularisation: float = REGULARISATION,
    folder: str | PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    on_step: Callable[[SearchStep], None] | None = None,
) -> AllocationSearch:
    """Exchange units between the sites of `plan` while KL falls. The budget stays exact.

    A step exchanges units of one to three pairs of sites (see `exchanges`), and is accepted if KL( dense || pruned ) on
    a probe is lower than that of the best plan. An accepted plan is also measured on a second probe, whose windows
    do not overlap the first's.

    Args:
        saliency: the scores that `plan` was allocated by.
        plan: keeps the best-scored units of each site.
        text: whose probe split gives both probes, (`samples`, `length`) tokens each.
        minutes: time limit; the running step is finished. Default 10 if `steps` is not given either.
        steps: limit of steps, including those of an earlier call.
        seed: of the exchanges; equal steps continue equally.
        compensation, statistics, regularisation: as in `nirvana.prune`.
        folder: stores finished steps; a stopped search resumes from it.
        progress: called with the progress within each step; may raise `Cancelled`, and steps so far are kept.
        on_step: called with each finished step.

    Raises:
        PlanError: the plan is of another model, removes layers, has equal widths or does not keep the best-scored
            units, or no two of its sites can exchange units.
        CompensationError: the statistics are missing or of another model.
        CorpusError: the text is too short for the probes.
        RunError: there is no limit.
    """
    if minutes is None and steps is None:
        minutes = MINUTES
    request = SearchRequest(minutes=minutes or 0, steps=steps or 0, seed=seed, samples=samples, length=length)
    request.check()
    how = compensation, statistics, regularisation
    probe = _probe(lm, text, request, task="auto", seed=SEED_OF_PROBES)
    session = _Session(lm, saliency, plan, request, how, probe)
    journal = Journal(Path(folder) / FILE) if folder is not None else None
    done = measure_points(session, journal, request=request.to_json(), progress=progress, on_row=on_step)
    return AllocationSearch(plan, tuple(done), session.settings, saliency)


class SearchRequest(Schema):
    """Limits and probes of an allocation search; 0 minutes or steps for no limit."""

    minutes: float = option(MINUTES, "--minutes", "stop after this time; the running step is finished", ge=0, le=10_080)
    steps: int = option(0, "--steps", "stop after this many steps; 0 for no limit", ge=0, le=100_000)
    seed: int = option(0, "--search-seed", "seed of the exchanges", ge=0, le=2**31 - 1)
    samples: int = option(PROBE[0], "--search-samples", "windows of each of the two probes", ge=1, le=4096)
    length: int = option(PROBE[1], "--search-length", "tokens in such a window", ge=2, le=32_768)

    def check(self) -> None:
        """Validate the request as a whole.

        Raises:
            RunError: no limit.
        """
        if not self.minutes and not self.steps:
            raise RunError("A search needs a limit.", "Give minutes or steps.")


class AllocationStudy(Study[SearchRequest]):
    """A search for the allocation with the lowest KL, from the plan of the run's recipe."""

    name, title, file, request = "search-allocation", "Allocation search", FILE, SearchRequest

    def check(self, run: Run, request: SearchRequest) -> None:
        super().check(run, request)
        request.check()
        if run.recipe.allocation.uniform:
            raise _not_searched("equal widths", "Turn equal widths off.")

    def open(self, run: Run, request: SearchRequest, models: ModelCache, progress: ProgressCallback | None) -> _Session:
        from nirvana.runs.workspace import Workspace

        workspace = Workspace(run.recipe, models=models, progress=progress)
        saliency, plan = workspace.saliency(), workspace.plan()
        how: Any = run.recipe.prune.compensation, workspace.statistics(), REGULARISATION
        choice = run.recipe.calibration
        text = workspace.probe_text()
        probe = _probe(workspace.lm, text, request, task=choice.task, seed=choice.probe_seed)
        return _Session(workspace.lm, saliency, plan, request, how, probe)


class _Session(Session[int, SearchStep]):
    """One search; points are the numbers of its steps."""

    def __init__(
        self,
        lm: LM,
        saliency: Saliency,
        plan: PruningPlan,
        request: SearchRequest,
        how: tuple[Compensation, Statistics | None, float],
        probe: CalibrationSet,
    ) -> None:
        from nirvana.compensation.compensator import Compensator
        from nirvana.evaluation.plan_divergence import PlanDivergence
        from nirvana.runs.model_cache import cache_fields

        _check_plan(lm, saliency, plan)
        compensator = Compensator(lm, *how)
        self.request, self.start = request, plan.widths
        self.constraints = Constraints(plan.layout, plan.gamma, plan.multiple_of, plan.protected)
        self.divergence = PlanDivergence(lm, saliency, compensator)
        self.choosing, self.held_out = probe.part(slice(0, None, 2)), probe.part(slice(1, None, 2))
        self._end = time.monotonic() + 60 * request.minutes if request.minutes else math.inf
        settings = {
            "start": {site.key: width for site, width in self.start.items()},
            "layout": lm.layout.to_json(),
            "scores": saliency.hash,
            "multiple_of": plan.multiple_of,
            "protected": [site.key for site in plan.protected],
            "compensation": compensator.record() or {},
            "probe": {"samples": request.samples, "length": self.choosing.length, "hash": probe.hash},
            "seed": request.seed,
            **cache_fields(lm),
        }
        self.settings: dict[str, Any] = as_read_back(settings)
        self.done: Sequence[SearchStep] = ()
        if self._following(0) is None:
            raise PlanError("No two modules of this plan can exchange units.", "Prune more, or protect fewer layers.")

    def read(self, data: dict[str, Any]) -> SearchStep:
        return SearchStep.from_json(data)

    def next(self, rows: Sequence[SearchStep]) -> int | None:
        self.done = rows
        if not rows:
            return 0
        over = time.monotonic() >= self._end or (self.request.steps and len(rows) > self.request.steps)
        if over or rows[0].failure:
            return None
        return self._following(rows[-1].number)

    def place(self, point: int, rows: Sequence[SearchStep]) -> tuple[str, int, int]:
        most = self.request.steps
        label = f"Step {len(rows)}" + (f" of {most}" if most else "") if point else "The plan to start from"
        return label, len(rows) + 1, most + 1 if most else 0

    def measure(self, point: int, progress: ProgressCallback | None) -> SearchStep:
        best = best_widths(self.start, self.done)
        exchanges = tuple(self._exchanges(point)) if point else ()
        widths, choosing = exchanged(best, exchanges), within(progress, "KL", 0, 2)
        self.divergence.base = best
        kl = self.divergence.measure(widths, self.choosing, choosing).mean
        known = accepted(self.done)
        step = SearchStep(point, exchanges, kl)
        if known and kl >= known[-1].kl:
            return step
        found = self.divergence.measure(widths, self.held_out, within(progress, "Held-out KL", 1, 2))
        return replace(step, held_out=tuple(map(float, found.per_sample)), accepted=True)

    def failed(self, point: int, failure: str) -> SearchStep:
        return SearchStep(point, tuple(self._exchanges(point)) if point else (), failure=failure)

    def _exchanges(self, number: int) -> list[Exchange]:
        widths = best_widths(self.start, self.done)
        return draw_exchanges(widths, self.constraints, number, self.request.seed)

    def _following(self, number: int) -> int | None:
        """The next step with an exchange; None where there is none."""
        return next((each for each in range(number + 1, number + 1 + SKIPPED) if self._exchanges(each)), None)


def _probe(lm: LM, text: Text, request: SearchRequest, *, task: str, seed: int) -> CalibrationSet:
    """Windows of both probes in turns, so that each has its part of every text of a mixture."""
    positions = lm.family.geometry(lm.settings).get("positions", request.length)
    length = min(request.length, positions)
    return sample_probe(lm, text, samples=2 * request.samples, length=length, seed=seed, task=task)


def _check_plan(lm: LM, saliency: Saliency, plan: PruningPlan) -> None:
    if plan.layout.sites != lm.layout.sites or saliency.layout.sites != lm.layout.sites:
        raise PlanError("The plan or the scores are of a model of another shape.", "Score and allocate for this model.")
    if plan.removed_layers:
        raise _not_searched("whole layers", "Allocate with another rule.")
    if plan.uniform:
        raise _not_searched("equal widths", "Allocate without equal widths.")
    best = lowest_go(saliency, {site: place.units - len(plan[site]) for site, place in lm.layout.items()})
    if any(not np.array_equal(best[site], kept) for site, kept in plan.items()):
        raise PlanError("The plan does not keep the best-scored units.", "Allocate by these scores.")


def _not_searched(what: str, how: str) -> PlanError:
    return PlanError(f"A search exchanges units of single modules, which a plan with {what} does not allow.", how)
