"""Base of all tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from nirvana.errors import RunError
from nirvana.progress import Reporter
from nirvana.runs.run import Run
from nirvana.schema import Schema

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache
    from nirvana.studies.study import Executor

Request = TypeVar("Request", bound=Schema)


class Task(ABC, Generic[Request]):
    """Work on one run.

    Attributes:
        name: identifies the task in the queue.
        title: heading of its progress.
        request: schema of its arguments.
        reads_only: whether it can be performed on the packaged example; its result is then returned without being
            stored.
    """

    name: str
    title: str
    request: type[Schema]
    reads_only: ClassVar[bool] = False

    def check(self, run: Run, request: Request) -> None:
        """Validate the request against the run, before the task is queued.

        Raises:
            NirvanaError: the task cannot succeed.
        """

    def on(self, executor: Executor) -> Task[Request]:
        """This task with its points measured by `executor`.

        Raises:
            RunError: it has no points that could be measured at the same time.
        """
        raise RunError(f"{self.title} cannot be distributed.", "Sweeps and searches can.")

    @abstractmethod
    def perform(self, run: Run, request: Request, models: ModelCache, reporter: Reporter) -> dict[str, Any] | None:
        """Do the work; the job's result as JSON values.

        Args:
            models: cache of models between tasks.
            reporter: receives the steps and their progress; raises `Cancelled` to stop the work.
        """


def require_pruned(run: Run) -> None:
    """Raises: RunError, where the run holds no pruned model."""
    if run.info("prune") is None:
        raise RunError("There is no pruned model yet.", "Prune first.")
