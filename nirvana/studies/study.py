"""Studies: resumable work on many points, each measured into one row.

A new study is one module here: a request (`Schema`), a `Study` that validates it, and a `Session` that names the points
and measures them. Journal, resumption, failed points and progress are shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from nirvana.errors import NirvanaError, RunError
from nirvana.progress import ProgressCallback, Reporter
from nirvana.runs.run import Run
from nirvana.schema import Schema
from nirvana.studies.journal import Journal
from nirvana.studies.points import RowCallback, measure_points
from nirvana.studies.session import Session, SharedSession, StudyRow

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache

Request = TypeVar("Request", bound=Schema)


class Study(ABC, Generic[Request]):
    """A kind of study, for its task and command.

    Class attributes:
        name: of its task and subcommand.
        title: heading of its progress.
        file: of its journal in the folder of its run.
        request: schema of its requests.
        parallel: whether its sessions are `SharedSession`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    file: ClassVar[str]
    request: ClassVar[type[Schema]]
    parallel: ClassVar[bool] = False

    @classmethod
    def journal(cls, run: Run) -> Journal:
        return Journal(run.folder / cls.file)

    @classmethod
    def last_request(cls, run: Run) -> Request | None:
        """The last request of the run's study; None without one, or where it cannot be read."""
        header = cls.journal(run).latest()
        try:
            return cls.request.from_json(header.request) if header else None  # type: ignore[return-value]
        except NirvanaError:
            return None

    def check(self, run: Run, request: Request) -> None:
        """Validate a request, before a model is loaded.

        Raises:
            RunError: the run is the example, or a point of a study itself.
            NirvanaError: the request cannot be met with the run's recipe.
        """
        if run.is_example:
            raise RunError("The example run cannot be changed.", "Start a run of your own from it.")
        if run.study:
            raise RunError("This run is a point of a study.", "Open the run that the study belongs to.")

    @abstractmethod
    def open(
        self, run: Run, request: Request, models: ModelCache, progress: ProgressCallback | None
    ) -> Session[Any, Any]:
        """Load the model and the texts, and check for foreseeable failures.

        Raises:
            NirvanaError: the model or a text cannot be used.
        """

    def perform(
        self,
        run: Run,
        request: Request,
        models: ModelCache,
        reporter: Reporter,
        executor: Executor | None = None,
    ) -> dict[str, Any]:
        """Measure every point without a row; the numbers of points and of failed points.

        Args:
            executor: measures the points of a parallel study elsewhere.

        Raises:
            Cancelled: the reporter asked for it; finished rows are kept.
            NirvanaError: see `check` and `open`.
        """
        self.check(run, request)
        reporter.step("model", 1, 1)
        session = self.open(run, request, models, reporter.progress)
        asked, journal = request.to_json(), self.journal(run)
        if executor is not None:
            assert isinstance(session, SharedSession)
            reporter.step(self.name, 1, 1)
            work = Work(self, run, asked, session)
            rows = executor.measure_points(work, journal, progress=reporter.progress, on_row=reporter.row)
            return _counts(rows)

        def on_point(label: str, number: int, points: int) -> None:
            reporter.step(self.name, number, points)

        rows = measure_points(
            session, journal, request=asked, progress=reporter.progress, on_point=on_point, on_row=reporter.row
        )
        return _counts(rows)


@dataclass(frozen=True)
class Work:
    """A parallel study of `run`, its request as JSON, and its open session."""

    study: Study[Any]
    run: Run
    request: dict[str, Any]
    session: SharedSession[Any, Any]


class Executor(Protocol):
    """Measures the points of a parallel study elsewhere, several at a time."""

    def measure_points(
        self,
        work: Work,
        journal: Journal,
        *,
        progress: ProgressCallback | None = None,
        on_row: RowCallback | None = None,
    ) -> list[Any]:
        """As the function `measure_points`.

        Raises:
            RunError: the devices cannot be reached, or none can measure points.
        """


def _counts(rows: Sequence[StudyRow]) -> dict[str, Any]:
    return {"points": len(rows), "failed": sum(bool(row.failure) for row in rows)}
