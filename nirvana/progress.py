"""Progress reports and cooperative cancellation for long calls.

Every long function takes `progress: ProgressCallback | None`. It is called between units of work and may raise
`nirvana.errors.Cancelled` to stop there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Progress(NamedTuple):
    """One report: `done` of `total` units of `stage`, e.g. `Progress("Scoring", 3, 8)`.

    A total of 0 means that the length is unknown. `text` is the text generated so far, if any.
    """

    stage: str
    done: int
    total: int
    text: str = ""

    @property
    def fraction(self) -> float:
        """Finished share of the stage, in [0, 1]; 0 where the length is unknown."""
        return min(self.done / self.total, 1.0) if self.total else 0.0


ProgressCallback = Callable[[Progress], None]


class Reporter(Protocol):
    """Receiver of a job's reports: the step that begins, the progress within it, and a study's finished rows."""

    def step(self, step: str, number: int, steps: int) -> None:
        """`step` begins, the `number`-th of `steps`, counted from 1."""

    def progress(self, progress: Progress) -> None:
        """One report within the step. Raises `Cancelled` where the job should stop."""

    def row(self, row: object) -> None:
        """A finished row of a study."""


def report(progress: ProgressCallback | None, stage: str, done: int, total: int, text: str = "") -> None:
    """Call `progress` with one report, if given; it may raise `Cancelled`."""
    if progress is not None:
        progress(Progress(stage, done, total, text))


def track(items: Iterable[T], progress: ProgressCallback | None, stage: str, total: int) -> Iterator[T]:
    """Yield `items`, reporting before the first and after each one."""
    report(progress, stage, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        report(progress, stage, done, total)


def within(progress: ProgressCallback | None, prefix: str, part: int, parts: int) -> ProgressCallback | None:
    """A callback that maps a nested call's reports onto part `part` of `parts` of one outer bar.

    >>> seen = []
    >>> within(seen.append, "Candidate 2 of 4", 1, 4)(Progress("Scoring", 1, 2))
    >>> seen
    [Progress(stage='Candidate 2 of 4: Scoring', done=375, total=1000, text='')]
    """
    if progress is None:
        return None
    resolution = 1000

    def nested(inner: Progress) -> None:
        done = round((part + inner.fraction) / parts * resolution)
        report(progress, f"{prefix}: {inner.stage}", done, resolution, inner.text)

    return nested
