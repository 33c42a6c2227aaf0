"""Adapters of the studies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict

from nirvana.errors import RunError
from nirvana.jobs.task import Task
from nirvana.progress import Reporter
from nirvana.runs.run import Run
from nirvana.schema import Schema
from nirvana.studies.matrix import MATRIX, check_matrix, matrix_task
from nirvana.studies.search_task import TUNE, check_tune, tune_run
from nirvana.studies.sweep import ARGUMENTS, check_sweep, sweep_task

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache


class Anything(Schema):
    """Arguments that the study checks itself."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    def to_json(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class StudyTask(Task[Anything]):
    """A study as a task."""

    request = Anything
    defaults: ClassVar[dict[str, Any]]
    checks: ClassVar[Callable[..., None]]
    does: ClassVar[Callable[..., dict[str, Any]]]

    def check(self, run: Run, request: Anything) -> None:
        given = request.to_json()
        if set(given) - set(self.defaults):
            raise RunError(
                f"The task {self.name} does not take {', '.join(set(given) - set(self.defaults))}.", "Leave it out."
            )
        type(self).checks(run, "evaluate", **self.defaults | given)

    def perform(self, run: Run, request: Anything, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        reporting: Any = reporter
        arguments = self.defaults | request.to_json()
        return type(self).does(run, models=models, reporter=reporting, until="evaluate", **arguments)


class SweepTask(StudyTask):
    """Sweep."""

    name, title, defaults = "sweep", "Sweep", ARGUMENTS
    checks, does = staticmethod(check_sweep), staticmethod(sweep_task)


class TuneTask(StudyTask):
    """Search."""

    name, title, defaults = "tune", "Search", TUNE
    checks, does = staticmethod(check_tune), staticmethod(tune_run)


class MatrixTask(StudyTask):
    """Matrix."""

    name, title, defaults = "matrix", "Calibration text against evaluation text", MATRIX
    checks, does = staticmethod(check_matrix), staticmethod(matrix_task)
