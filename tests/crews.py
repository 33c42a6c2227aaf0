"""Workers of a study in this process: each with its own cache, one call at a time, lost where a test asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nirvana.progress import Progress, ProgressCallback
from nirvana.runs.transfer import pack_run
from nirvana.studies.journal import Journal
from nirvana.studies.parallel import Ended, measure_with
from nirvana.studies.point_worker import PointWorker
from nirvana.studies.points import RowCallback
from nirvana.studies.study import Work


class Call(NamedTuple):
    """A call of a worker's method, as the crew was asked for it."""

    number: int
    worker: int
    method: str
    arguments: tuple[Any, ...]


class Crew:
    """`size` workers. Calls are computed in order when they are waited for; those that `loses` names are lost, as if
    their process had died at the end.
    """

    def __init__(self, work: Work, size: int, home: Path, loses: Callable[[Call], bool]) -> None:
        self._home, self._loses, self._calls = home, loses, list[Call]()
        self.begun: list[Call] = []
        self._patience = 2  # polls until the workers are ready
        self._workers = [self._at(worker, lambda: _open(work)) for worker in range(size)]

    def idle(self) -> bool:
        return not self._patience and len(self._calls) < len(self._workers)

    def start(self, number: int, method: str, *arguments: Any) -> None:
        busy = {call.worker for call in self._calls}
        worker = next(worker for worker in range(len(self._workers)) if worker not in busy)
        self._calls.append(Call(number, worker, method, arguments))
        self.begun.append(self._calls[-1])

    def ended(self, seconds: float) -> Sequence[Ended]:
        if self._patience:
            self._patience -= 1
            return []
        call = self._calls.pop(0)
        found = self._at(call.worker, lambda: getattr(self._workers[call.worker], call.method)(*call.arguments))
        return [Ended(call.number, None if self._loses(call) else found)]

    def states(self) -> Sequence[Progress]:
        return [self._workers[call.worker].state() for call in self._calls]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def _at(self, worker: int, call: Callable[[], Any]) -> Any:
        before = os.environ["NIRVANA_HOME"]
        os.environ["NIRVANA_HOME"] = str(self._home / f"node-{worker}")
        try:
            return call()
        finally:
            os.environ["NIRVANA_HOME"] = before


class CrewExecutor:
    """Measures points with a `Crew`, which is kept as `crew`."""

    def __init__(self, home: Path, size: int = 3, loses: Callable[[Call], bool] = lambda call: False) -> None:
        self.home, self.size, self.loses = home, size, loses

    def measure_points(
        self,
        work: Work,
        journal: Journal,
        *,
        progress: ProgressCallback | None = None,
        on_row: RowCallback | None = None,
    ) -> list[Any]:
        self.crew = Crew(work, self.size, self.home, self.loses)
        try:
            return measure_with(self.crew, work, journal, progress=progress, on_row=on_row)
        finally:
            self.crew.close()


def _open(work: Work) -> PointWorker:
    return PointWorker(work.study, pack_run(work.run), work.request)
