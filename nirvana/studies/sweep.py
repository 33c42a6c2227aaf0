"""Sweep: every point of a grid as a separate run, around the recipe of one run.

Points are computed by the pipeline. They share models in memory and cached results, so one saliency pass serves all its
plans, and the dense model is measured once. Recovered weights are deleted once they are measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nirvana.errors import RunError
from nirvana.progress import Progress, ProgressCallback, within
from nirvana.runs.recipe import STEPS, Recipe
from nirvana.runs.recovery import drop_weights
from nirvana.runs.run import Run
from nirvana.runs.speed import SPEED
from nirvana.runs.store import Store
from nirvana.runs.validation import check_against_model, check_recipe
from nirvana.studies.points import PointCallback, measure_points
from nirvana.studies.session import SharedSession
from nirvana.studies.study import Study
from nirvana.studies.sweep_grid import Grid, Point
from nirvana.studies.sweep_rows import FILE, Row, row_of

if TYPE_CHECKING:
    from nirvana.evaluation.speed_report import SpeedReport
    from nirvana.runs.model_cache import ModelCache


class Sweep(Study[Grid]):
    """A grid of criteria, allocations, sparsities, compensations, recoveries and seeds."""

    name, title, file, request, parallel = "sweep", "Sweep", FILE, Grid, True

    def check(self, run: Run, request: Grid) -> None:
        super().check(run, request)
        request.check()
        for recovery in request.recoveries:
            check_recipe(request.points()[0]._replace(recovery=recovery).recipe(run.recipe))

    def open(self, run: Run, request: Grid, models: ModelCache, progress: ProgressCallback | None) -> _Session:
        return _Session(run, request, models, progress)


def sweep(
    base: Run,
    grid: Grid,
    *,
    models: ModelCache | None = None,
    progress: ProgressCallback | None = None,
    on_point: PointCallback | None = None,
) -> list[Row]:
    """Compute the points of `grid` without a row; returns the rows of all points in the grid's order.

    A stopped sweep resumes with the first missing point, and an extended grid computes its new points. A failed point
    is recorded with its error and tried again by the next call.

    Args:
        base: run with the choices outside the grid; its folder stores the rows.
        grid: the points.
        models: holds models between calls; a new holder by default.
        progress: called with the progress within each point; may raise `Cancelled`.
        on_point: called before each computed point with its label, its number from 1, and the number of points.

    Raises:
        RunError: `base` is the example or a point itself, or the grid is too large.
        NirvanaError: the model or a text cannot be used.
    """
    from nirvana.runs.model_cache import ModelCache

    study = Sweep()
    study.check(base, grid)
    session = study.open(base, grid, models or ModelCache(), progress)
    rows = measure_points(session, study.journal(base), request=grid.to_json(), progress=progress, on_point=on_point)
    found = {row.point: row for row in rows}
    return [found[point] for point in grid.points()]


class _Session(SharedSession[Point, Row]):
    """The points of one grid and their shared state."""

    def __init__(self, base: Run, grid: Grid, models: ModelCache, progress: ProgressCallback | None) -> None:
        assert base.index is not None
        self.base, self.grid, self.models, self.points, self.progress = base, grid, models, grid.points(), progress
        self.store = Store(base.index.path.parent)
        self.settings = {}  # each row has the fingerprint of all that it depends on
        self._tried: set[Point] = set()
        self._last: Run | None = None  # the next point may share its results
        self.weights = ""  # of the dense model, once it is in memory

    def prepare(self) -> None:
        """Load the model and the texts; rows of other weights are ignored."""
        from nirvana.runs.workspace import Workspace

        recipe = self.base.recipe
        workspace = Workspace(recipe, models=self.models, progress=self.progress)
        lm, self.corpora = workspace.lm, workspace.corpora
        self.weights = lm.hash
        positions = lm.family.geometry(lm.settings).get("positions")
        if self.grid.speed and positions is not None and positions < SPEED.prompt + SPEED.new_tokens:
            raise RunError(f"{lm.source.name} has too few positions for timing: {positions}.", "Sweep without speed.")
        for name in (*recipe.calibration.texts, *recipe.evaluation.corpora):
            workspace.corpus(name)

    def read(self, data: dict[str, Any]) -> Row:
        row = Row.from_json(data)
        if row.fingerprint != row.point.recipe(self.base.recipe).fingerprint("evaluate"):
            raise ValueError("The row belongs to another recipe.")
        return row

    def next_beside(self, rows: Sequence[Row], running: Sequence[Point]) -> Point | None:
        newest = {row.point: row for row in rows}
        if not self.weights and not all(self._is_done(point, newest.get(point)) for point in self.points):
            self.prepare()
        point = next((point for point in self.points if not self._is_done(point, newest.get(point))), None)
        if point is not None:
            self._tried.add(point)
        return point

    def shared_key(self, point: Point) -> str:
        return f"{point.criterion} {point.seed}"

    def share(self, point: Point, progress: ProgressCallback | None) -> Run:
        return self._compute(point, point.recipe(self.base.recipe), progress, until="saliency")

    def donor(self, point: Point) -> Run | None:
        recipe = point.recipe(self.base.recipe)
        runs = (self.base, *self.store.children(self.base.id))
        fitting = (run for run in runs if run.step_state("saliency", recipe) == "done")
        return next((run for run in fitting if (card := run.model()) is not None and card.hash == self.weights), None)

    def receive(self, donor: Run | None, rows: Sequence[dict[str, Any]]) -> None:
        self._last = donor or self._last

    def _is_done(self, point: Point, row: Row | None) -> bool:
        """Whether its row is complete. A point that failed before this session is tried again."""
        if point in self._tried:
            return True
        if row is None or row.failure:
            return False
        there = self.weights in ("", row.weights) and (self.base.folder.parent / row.run_id).is_dir()
        return there and bool(row.speed or not self.grid.speed)

    def place(self, point: Point, rows: Sequence[Row]) -> tuple[str, int, int]:
        return point.label, self.points.index(point) + 1, len(self.points)

    def measure(self, point: Point, progress: ProgressCallback | None) -> Row:
        run = self._compute(point, point.recipe(self.base.recipe), progress)
        speed = self._time(run, progress) if self.grid.speed else _same_protocol(run.speed())
        row = row_of(point, run, speed)
        drop_weights(run)
        return row

    def failed(self, point: Point, failure: str) -> Row:
        fingerprint = point.recipe(self.base.recipe).fingerprint("evaluate")
        return Row(point, fingerprint=fingerprint, failure=failure, finished=time.time())

    def release(self) -> None:
        self.models.clear()

    def _compute(self, point: Point, recipe: Recipe, progress: ProgressCallback | None, until: str = STEPS[-1]) -> Run:
        """Compute the run of a point."""
        from nirvana.runs.pipeline import compute_steps

        check_recipe(recipe)
        donor = self._last or self.base
        card = donor.model()
        if card is not None:  # the pipeline does not check steps whose results are copied
            check_against_model(recipe, card)
        run = self._started(recipe) or self.store.create(recipe, name=point.label, parent=donor, study=self.base)
        steps = _Steps(progress)
        report, on_step = steps.report, steps.step
        compute_steps(run, until=until, progress=report, models=self.models, on_step=on_step, corpora=self.corpora)
        self._last = run
        return run

    def _started(self, recipe: Recipe) -> Run | None:
        """The run of a point that was interrupted, or whose row was lost."""
        for run in self.store.children(self.base.id):
            card = run.model()
            if run.recipe == recipe and (card is None or card.hash == self.weights):
                run.steps.sweep()
                return run
        return None

    def _time(self, run: Run, progress: ProgressCallback | None) -> SpeedReport:
        """Time a point's two models in turns; the result is attached to its run, unless that has another timing."""
        from nirvana.runs.speed import measure_speeds
        from nirvana.runs.workspace import Workspace

        known = run.speed()
        found = _same_protocol(known)
        if found is None:
            workspace = Workspace.of(run, models=self.models, progress=progress)
            found = measure_speeds(workspace, SPEED)
            if known is None:
                run.attach("speed", found)
        return found


def _same_protocol(report: SpeedReport | None) -> SpeedReport | None:
    """A timing with the sweep's protocol, or None: other batches or prompts are not comparable."""
    same = report is not None and all(getattr(report, name) == value for name, value in SPEED.protocol.items())
    return report if same else None


class _Steps:
    """Progress through the steps of one point as a single stage."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        self._progress = self._nested = progress

    def step(self, step: str, number: int, steps: int) -> None:
        self._nested = within(self._progress, step, number - 1, steps)
        self.report(Progress(step, 0, 1))

    def report(self, progress: Progress) -> None:
        if self._nested is not None:
            self._nested(progress)
