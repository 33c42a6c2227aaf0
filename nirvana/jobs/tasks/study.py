"""Adapter of the studies: one task each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.jobs.task import Task
from nirvana.progress import Reporter
from nirvana.runs.run import Run
from nirvana.studies.study import Study

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache


class StudyTask(Task[Any]):
    """A study as a task; rows are stored in the run's journal."""

    def __init__(self, study: Study[Any]) -> None:
        self.study = study
        self.name, self.title, self.request = study.name, study.title, study.request

    def check(self, run: Run, request: Any) -> None:
        self.study.check(run, request)

    def perform(self, run: Run, request: Any, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        return self.study.perform(run, request, models, reporter)
