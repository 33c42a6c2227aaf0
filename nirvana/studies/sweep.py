"""A sweep: every point of a grid as a run of its own, around the recipe of one run, whose study they are.

The points are executed by the pipeline like any run. They share the models in memory and the results that are kept by
their inputs, so a saliency pass serves all plans made from it, and the dense model is measured once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nirvana import out_of_memory as memory
from nirvana.errors import Cancelled, NirvanaError, RunError
from nirvana.progress import Progress, ProgressCallback, within
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.speed import SPEED
from nirvana.runs.store import Store
from nirvana.runs.validation import check_against_model, check_recipe
from nirvana.studies.sweep_grid import Grid as Grid
from nirvana.studies.sweep_grid import Point
from nirvana.studies.sweep_rows import Row, append_row, read_rows, row_of, write_grid
from nirvana.studies.sweep_rows import read_grid as read_grid

if TYPE_CHECKING:
    from nirvana.calibration.corpora.corpus import Corpus
    from nirvana.evaluation.speed_report import SpeedReport
    from nirvana.progress import Reporter
    from nirvana.runs.model_cache import ModelCache

ARGUMENTS: dict[str, Any] = {"grid": {}}
PointCallback = Callable[[Point, int, int], None]


def sweep(
    base: Run,
    grid: Grid,
    *,
    models: ModelCache | None = None,
    progress: ProgressCallback | None = None,
    on_point: PointCallback | None = None,
) -> list[Row]:
    """Compute the points of `grid` that are not there yet; the rows of all of them, in the grid's order.

    A point's row is kept as soon as it is finished, so a sweep that was stopped goes on where it was, and a grid that
    grew computes what is new. A point that cannot be gets a row that says why, and the others go on.

    Args:
        base: gives every choice that the grid does not, and its folder the rows.
        grid: what is tried.
        models: holds models between calls; a new holder by default.
        progress: called with the progress within each point; may raise `Cancelled`.
        on_point: called before each point that is computed, with its number, from 1, and how many there are.

    Raises:
        RunError: `base` is the example or a point itself, or the grid is out of range.
        NirvanaError: the model or a text is not to be had.
    """
    from nirvana.runs.model_cache import ModelCache

    check_sweep(base, "evaluate", grid.to_json())
    write_grid(base, grid)
    points = grid.points()
    work = _Work(base, grid, models or ModelCache(), progress)
    todo = [point for point in points if not work.is_done(point)]
    if todo:
        work.open()
    for number, point in enumerate(points, start=1):
        if point in todo and not work.is_done(point):
            if on_point is not None:
                on_point(point, number, len(points))
            work.finish(point)
    return [work.rows[point] for point in points]


def check_sweep(run: Run, until: str, grid: Any) -> None:
    """Refuse a sweep that cannot be.

    Raises:
        RunError: the run is the example or a point of a sweep itself, or the grid is out of range.
        NirvanaError: the run's recipe asks for what cannot be.
    """
    if run.is_example:
        raise RunError("The example run cannot be changed.", "Start a run of your own from it.")
    if run.study:
        raise RunError("This run is a point of a sweep.", "Open the run that the sweep belongs to.")
    read = Grid.from_json(grid)
    read.check()
    check_recipe(read.points()[0].recipe(run.recipe))


def sweep_task(run: Run, *, models: ModelCache, reporter: Reporter, until: str, grid: dict[str, Any]) -> dict[str, Any]:
    """The worker's task: sweep around `run`."""

    def on_point(point: Point, number: int, points: int) -> None:
        reporter.step("sweep", number, points)

    rows = sweep(run, Grid.from_json(grid), models=models, progress=reporter.progress, on_point=on_point)
    return {"points": len(rows), "failed": sum(bool(row.failure) for row in rows)}


class _Work:
    """What the points of one sweep share."""

    def __init__(self, base: Run, grid: Grid, models: ModelCache, progress: ProgressCallback | None) -> None:
        assert base.index is not None
        self.base, self.grid, self.models, self.progress = base, grid, models, progress
        self.store = Store(base.index.path.parent)
        self.rows = {row.point: row for row in read_rows(base)}
        self.corpora: dict[str, Corpus] = {}
        self.weights = ""
        self._last: Run | None = None  # whose results the next point may share

    def is_done(self, point: Point) -> bool:
        """Whether its row holds all that is asked for. What failed is tried again: most such points fail at once."""
        row = self.rows.get(point)
        return row is not None and not row.failure and bool(row.speed or not self.grid.speed)

    def open(self) -> None:
        """Load the model and the texts, which no point can do without; rows of other weights no longer count."""
        from nirvana.runs.workspace import Workspace

        recipe = self.base.recipe
        workspace = Workspace(recipe, models=self.models, corpora=self.corpora, progress=self.progress)
        lm = workspace.lm
        self.weights = lm.hash
        self.rows = {point: row for point, row in self.rows.items() if row.weights in ("", lm.hash)}
        positions = lm.family.geometry(lm.settings).get("positions")
        if self.grid.speed and positions is not None and positions < SPEED.prompt + SPEED.new_tokens:
            raise RunError(f"{lm.source.name} has too few positions to be timed: {positions}.", "Leave speed out.")
        for name in (*recipe.calibration.texts, *recipe.evaluation.corpora):
            workspace.corpus(name)

    def finish(self, point: Point) -> None:
        """Compute one point and keep its row."""
        start = time.perf_counter()
        recipe = point.recipe(self.base.recipe)
        try:
            run = self._compute(point, recipe)
            speed = self._time(run) if self.grid.speed else _same_protocol(run.speed())
            row = row_of(point, run, round(time.perf_counter() - start, 2), speed)
        except Cancelled:
            raise
        except NirvanaError as error:
            row = _failed(point, recipe, f"{error.message} {error.hint}")
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            self.models.clear()  # the next point may need less
            row = _failed(point, recipe, f"{memory.MESSAGE} {memory.HINT}")
        append_row(self.base, row)
        self.rows[point] = row

    def _compute(self, point: Point, recipe: Recipe) -> Run:
        """The run of a point with every step done."""
        from nirvana.runs.pipeline import compute_steps

        check_recipe(recipe)
        donor = self._last or self.base
        card = donor.model()
        if card is not None:  # its results may be copied, and then nobody looks ahead any more
            check_against_model(recipe, card)
        run = self._started(recipe) or self.store.create(recipe, name=point.label, parent=donor, study=self.base)
        steps = _Steps(self.progress, point.label)
        compute_steps(run, progress=steps.report, models=self.models, on_step=steps.step, corpora=self.corpora)
        self._last = run
        return run

    def _started(self, recipe: Recipe) -> Run | None:
        """The run of a point that was stopped half way, or whose row was lost."""
        for run in self.store.children(self.base.id):
            card = run.model()
            if run.recipe == recipe and (card is None or card.hash == self.weights):
                run.steps.sweep()
                return run
        return None

    def _time(self, run: Run) -> SpeedReport:
        """Time a point's two models in turns; the result is kept with its run, unless that holds another timing."""
        from nirvana.runs.speed import measure_speeds
        from nirvana.runs.workspace import Workspace

        known = run.speed()
        found = _same_protocol(known)
        if found is None:
            workspace = Workspace.of(run, models=self.models, progress=within(self.progress, run.name, 0, 1))
            found = measure_speeds(workspace, SPEED)
            if known is None:
                run.attach("speed", found)
        return found


def _same_protocol(report: SpeedReport | None) -> SpeedReport | None:
    """A timing as a sweep makes it, or None: one with another batch or prompt is no point of the same chart."""
    same = report is not None and all(getattr(report, name) == value for name, value in SPEED.protocol.items())
    return report if same else None


def _failed(point: Point, recipe: Recipe, why: str) -> Row:
    return Row(point, fingerprint=recipe.fingerprint("evaluate"), failure=why.strip(), finished=time.time())


class _Steps:
    """Progress through the steps of one point, as one stage that goes from nothing to all."""

    def __init__(self, progress: ProgressCallback | None, label: str) -> None:
        self._progress, self._label = progress, label
        self._nested = progress

    def step(self, step: str, number: int, steps: int) -> None:
        self._nested = within(self._progress, self._label, number - 1, steps)
        self.report(Progress(step, 0, 1))

    def report(self, progress: Progress) -> None:
        if self._nested is not None:
            self._nested(progress)
