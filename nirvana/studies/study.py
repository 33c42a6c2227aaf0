"""Studies: resumable work on many points, each measured into one row.

A new study is one module here: a request (`Schema`), a `Study` that validates it, and a `Session` that names the points
and measures them. Journal, resumption, failed points and progress are shared.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from nirvana import out_of_memory
from nirvana.errors import Cancelled, NirvanaError, RunError
from nirvana.progress import ProgressCallback, Reporter, within
from nirvana.runs.run import Run
from nirvana.schema import Schema
from nirvana.studies.journal import Header, Journal, as_read_back

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache


class StudyRow(Protocol):
    """The result of one point, a frozen dataclass. `failure` is the error of a failed point, else empty."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def failure(self) -> str: ...

    @property
    def seconds(self) -> float: ...

    def to_json(self) -> dict[str, Any]: ...


Point = TypeVar("Point")
Row = TypeVar("Row", bound=StudyRow)
Request = TypeVar("Request", bound=Schema)
PointCallback = Callable[[str, int, int], None]
RowCallback = Callable[[Any], None]


class Session(ABC, Generic[Point, Row]):
    """An open study, with model and texts in memory and all checks passed.

    Attributes:
        settings: JSON values that rows depend on besides their point; rows of other settings are ignored.
    """

    settings: dict[str, Any]

    @abstractmethod
    def read(self, data: dict[str, Any]) -> Row:
        """Parse a row of the journal.

        Raises:
            ValueError: the row is damaged, or belongs to other choices; it is ignored.
        """

    @abstractmethod
    def next(self, rows: Sequence[Row]) -> Point | None:
        """The point to measure after `rows`, oldest first; None where the study is finished."""

    @abstractmethod
    def place(self, point: Point, rows: Sequence[Row]) -> tuple[str, int, int]:
        """Label of a point, its number from 1, and the number of points (0 where unknown)."""

    @abstractmethod
    def measure(self, point: Point, progress: ProgressCallback | None) -> Row:
        """Measure a point.

        Raises:
            NirvanaError: the point failed; the study continues.
        """

    @abstractmethod
    def failed(self, point: Point, failure: str) -> Row:
        """The row of a failed point."""

    def release(self) -> None:
        """Release memory after a point ran out of it."""


class Study(ABC, Generic[Request]):
    """A kind of study, for its task and command.

    Class attributes:
        name: of its task and subcommand.
        title: heading of its progress.
        file: of its journal in the folder of its run.
        request: schema of its requests.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    file: ClassVar[str]
    request: ClassVar[type[Schema]]

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

    def perform(self, run: Run, request: Request, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        """Measure every point without a row; the numbers of points and of failed points.

        Raises:
            Cancelled: the reporter asked for it; finished rows are kept.
            NirvanaError: see `check` and `open`.
        """
        self.check(run, request)
        reporter.step("model", 1, 1)
        session = self.open(run, request, models, reporter.progress)

        def on_point(label: str, number: int, points: int) -> None:
            reporter.step(self.name, number, points)

        rows = measure_points(
            session,
            self.journal(run),
            request=request.to_json(),
            progress=reporter.progress,
            on_point=on_point,
            on_row=reporter.row,
        )
        return {"points": len(rows), "failed": sum(bool(row.failure) for row in rows)}


def measure_points(
    session: Session[Point, Row],
    journal: Journal | None,
    *,
    request: dict[str, Any],
    progress: ProgressCallback | None = None,
    on_point: PointCallback | None = None,
    on_row: RowCallback | None = None,
) -> list[Row]:
    """Measure the points of a session in turn; returns all rows, those of the journal first.

    Each row is recorded when it is finished. A failed point, also by lack of memory, is recorded with its error.

    Args:
        journal: stores the rows; optional.
        request: recorded with them.
        progress: over each point; may raise `Cancelled`.
        on_point: called before each point with its label, number and the number of points (0 where unknown).
        on_row: called with each measured row.
    """
    header = Header(as_read_back(request), session.settings)
    rows: list[Row] = []
    if journal is not None:
        rows = [row for data in journal.rows(header.key) if (row := _read(session, data)) is not None]
    point = session.next(rows)
    if journal is not None:
        journal.begin(header)
    while point is not None:
        label, number, points = session.place(point, rows)
        if on_point is not None:
            on_point(label, number, points)
        start = time.perf_counter()
        row = _measured(session, point, within(progress, label, 0, 1))
        row = replace(row, seconds=round(time.perf_counter() - start, 2))
        rows.append(row)
        if journal is not None:
            journal.append(header.key, row.to_json())
        if on_row is not None:
            on_row(row)
        point = session.next(rows)
    return rows


def _read(session: Session[Point, Row], data: dict[str, Any]) -> Row | None:
    try:
        return session.read(data)
    except (KeyError, TypeError, ValueError, NirvanaError):
        return None  # of another version or recipe; it stays in the file


def _measured(session: Session[Point, Row], point: Point, progress: ProgressCallback | None) -> Row:
    try:
        return session.measure(point, progress)
    except Cancelled:
        raise
    except NirvanaError as error:
        return session.failed(point, f"{error.message} {error.hint}".strip())
    except Exception as error:
        if not out_of_memory.is_out_of_memory(error):
            raise
        session.release()  # the next point may need less memory
        return session.failed(point, f"{out_of_memory.MESSAGE} {out_of_memory.HINT}")
