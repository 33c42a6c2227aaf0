"""Sessions of studies: the points, what measures them, and their rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from nirvana.progress import ProgressCallback

if TYPE_CHECKING:
    from nirvana.runs.run import Run


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


class SharedSession(Session[Point, Row]):
    """A session whose points may be measured at the same time, in several processes; see `nirvana.studies.parallel`."""

    @abstractmethod
    def next_beside(self, rows: Sequence[Row], running: Sequence[Point]) -> Point | None:
        """The point to measure after `rows` while others are `running`; None where none is left, or none can be chosen
        before one of them ends.
        """

    def next(self, rows: Sequence[Row]) -> Point | None:
        return self.next_beside(rows, ())

    def prepare(self) -> None:
        """Load the model, in a process that measures points.

        Raises:
            NirvanaError: the model or a text cannot be used.
        """

    def shared_key(self, point: Point) -> str:
        """Identity of the results that points share, which one process computes before the others; empty for none."""
        return ""

    def share(self, point: Point, progress: ProgressCallback | None) -> Run | None:
        """Compute the results that the point shares, as a run.

        Raises:
            NirvanaError: they cannot be computed.
        """
        return None

    def donor(self, point: Point) -> Run | None:
        """A run that has the results that the point shares, or None."""
        return None

    def receive(self, donor: Run | None, rows: Sequence[dict[str, Any]]) -> None:
        """Take over what other processes have computed: a `donor` of shared results, and `rows` as JSON."""

    def accept(self, row: Row, rows: Sequence[Row]) -> Row:
        """The row of another process as it follows `rows` in the journal."""
        return row
