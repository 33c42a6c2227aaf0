"""Points of a study measured by several workers at the same time, with one journal.

Results that points share, such as the scores of one criterion and seed, are computed by one worker and handed to the
others. A point whose worker is lost is given to another one. Rows are recorded here alone, so no point is recorded
twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from nirvana.progress import Progress, ProgressCallback, report
from nirvana.runs.store import Store
from nirvana.runs.transfer import Packed, pack_run, unpack_run
from nirvana.studies.journal import Header, Journal, as_read_back
from nirvana.studies.point_worker import Result
from nirvana.studies.points import RowCallback, known_rows
from nirvana.studies.study import Work

ATTEMPTS = 3  # workers that a point may lose
POLL = 0.5  # seconds between reports
PARTS = 1000  # of the bar


class Ended(NamedTuple):
    """A job that has ended; `result` is None if its worker was lost."""

    number: int
    result: Result | None


class Crew(Protocol):
    """Workers on devices, each with at most one job."""

    def idle(self) -> bool:
        """Whether a worker has no job."""

    def start(self, number: int, method: str, *arguments: Any) -> None:
        """Give an idle worker a job: a method of `PointWorker`."""

    def ended(self, seconds: float) -> Sequence[Ended]:
        """Jobs that have ended, after at most that time.

        Raises:
            RunError: no worker is left.
        """

    def states(self) -> Sequence[Progress]:
        """The last report of each running job."""


class _Job(NamedTuple):
    """A point that is measured or, with `key`, whose shared results are computed."""

    point: Any
    key: str = ""


def measure_with(
    crew: Crew,
    work: Work,
    journal: Journal,
    *,
    progress: ProgressCallback | None = None,
    on_row: RowCallback | None = None,
) -> list[Any]:
    """As `measure_points`, with the workers of `crew`; rows are in order of completion."""
    return _Dispatcher(crew, work, journal, on_row).run(progress)


class _Dispatcher:
    """Points of one study: waiting, running, and their rows."""

    def __init__(self, crew: Crew, work: Work, journal: Journal, on_row: RowCallback | None) -> None:
        self.crew, self.work, self.session, self.journal, self.on_row = crew, work, work.session, journal, on_row
        assert work.run.index is not None
        self.store = Store(work.run.index.path.parent)
        self.header = Header(as_read_back(work.request), work.session.settings)
        self.rows: list[Any] = known_rows(work.session, journal, self.header)
        self.waiting: list[Any] = []  # points whose shared results are being computed, or whose worker was lost
        self.running: dict[int, _Job] = {}
        self.donors: dict[str, Packed | None] = {}  # None where the shared results could not be computed
        self.lost = Counter[Any]()
        self.points = self.begun = 0

    def run(self, progress: ProgressCallback | None) -> list[Any]:
        """Measure all points; see `measure_with`."""
        self._fill()
        self.journal.begin(self.header)
        while True:
            self._report(progress)
            if not self.running and not self.waiting:
                point = self._next_point()
                if point is None:
                    return self.rows
                self.waiting.append(point)  # no worker is ready
            for ended in self.crew.ended(POLL):
                job = self.running.pop(ended.number)
                if ended.result is None:
                    self._lose(job)
                elif job.key:
                    self._share(job.key, ended.result)
                else:
                    self._record(ended.result)
            self._fill()

    def _fill(self) -> None:
        """Give each idle worker a job."""
        while self.crew.idle() and (job := self._next_job()) is not None:
            number = self.begun = self.begun + 1
            self.running[number] = job
            if job.key:
                self.crew.start(number, "prepare", job.point)
            else:
                donor = self.donors.get(self.session.shared_key(job.point))
                self.crew.start(number, "measure", job.point, donor, [row.to_json() for row in self.rows])

    def _next_job(self) -> _Job | None:
        """A job that needs no other first; None where there is none."""
        for point in self.waiting:
            if (job := self._job(point)) is not None:
                if not job.key:
                    self.waiting.remove(point)
                return job
        while (point := self._next_point()) is not None:
            if (job := self._job(point)) is not None and not job.key:
                return job
            self.waiting.append(point)
            if job is not None:
                return job
        return None

    def _next_point(self) -> Any:
        """A point that was neither measured nor begun."""
        begun = [*self.waiting, *(job.point for job in self.running.values() if not job.key)]
        point = self.session.next_beside(self.rows, begun)
        if point is not None:
            self.points = self.session.place(point, self.rows)[2]
        return point

    def _job(self, point: Any) -> _Job | None:
        """The next job for a point; None while another one computes what it shares."""
        key = self.session.shared_key(point)
        if key and key not in self.donors:
            if any(job.key == key for job in self.running.values()):
                return None
            donor = self.session.donor(point)
            if donor is None:
                return _Job(point, key)
            self.donors[key] = pack_run(donor)
        return _Job(point)

    def _share(self, key: str, result: Result) -> None:
        if result.run is not None:
            unpack_run(self.store, result.run)  # an interrupted study has the scores, too
        self.donors[key] = result.run

    def _record(self, result: Result) -> None:
        assert result.row is not None
        if result.run is not None:
            unpack_run(self.store, result.run)
        self._add(self.session.read(result.row))

    def _add(self, row: Any) -> None:
        row = self.session.accept(row, self.rows)
        self.rows.append(row)
        self.journal.append(self.header.key, row.to_json())
        if self.on_row is not None:
            self.on_row(row)

    def _lose(self, job: _Job) -> None:
        """Try a job again whose worker was lost, or give it up."""
        self.lost[job] += 1
        given_up = self.lost[job] >= ATTEMPTS
        if job.key:  # its point waits
            if given_up:
                self.donors[job.key] = None
        elif given_up:
            failure = f"The process that measured it was lost {ATTEMPTS} times. Its device may lack memory."
            self._add(self.session.failed(job.point, failure))
        else:
            self.waiting.insert(0, job.point)

    def _report(self, progress: ProgressCallback | None) -> None:
        states, done = self.crew.states(), len(self.rows)
        if not self.running:
            report(progress, "Waiting for a device", 0, 0)
            return
        share = (done + sum(state.fraction for state in states)) / self.points if self.points else 0.0
        finished = f"{done} of {self.points} points" if self.points else f"{done} points"
        total = PARTS if self.points else 0
        report(progress, f"{finished}, {len(self.running)} at once", round(PARTS * min(share, 1.0)), total)
