"""Adapter of the studies: one task each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.jobs.task import Task
from nirvana.progress import Reporter
from nirvana.runs.run import Run
from nirvana.studies.study import Executor, Study

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache


class StudyTask(Task[Any]):
    """A study as a task; rows are stored in the run's journal."""

    def __init__(self, study: Study[Any], executor: Executor | None = None) -> None:
        self.study, self.executor = study, executor
        self.name, self.title, self.request = study.name, study.title, study.request

    def check(self, run: Run, request: Any) -> None:
        self.study.check(run, request)

    def on(self, executor: Executor) -> StudyTask:
        return StudyTask(self.study, executor) if self.study.parallel else super().on(executor)  # type: ignore[return-value]

    def perform(self, run: Run, request: Any, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        return self.study.perform(run, request, models, reporter, self.executor)
