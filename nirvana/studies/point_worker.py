"""Points of a study measured apart from its journal: on another device or machine, in a store of their own."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from nirvana.errors import Cancelled, NirvanaError
from nirvana.out_of_memory import is_out_of_memory
from nirvana.progress import Progress
from nirvana.runs.store import Store
from nirvana.runs.transfer import Packed, pack_run, unpack_run
from nirvana.studies.points import measured
from nirvana.studies.session import SharedSession

if TYPE_CHECKING:
    from nirvana.studies.study import Study


@dataclass(frozen=True)
class Result:
    """The result of a worker's call.

    Attributes:
        row: of the point, as JSON; None if it was only prepared.
        run: the point's run, if it has one.
    """

    row: dict[str, Any] | None
    run: Packed | None


class PointWorker:
    """Measures points of one study, one at a time, with the model in memory between them.

    `state` and `close` may be called from another thread while a point is measured.
    """

    def __init__(self, study: Study[Any], base: Packed, request: dict[str, Any]) -> None:
        """Load the model and the texts.

        Args:
            base: the run with the study.
            request: of the study, as JSON.

        Raises:
            NirvanaError: the model or a text cannot be used here.
        """
        from nirvana.runs.model_cache import ModelCache

        self._closed, self._state = False, Progress("", 0, 1)
        self._folder = Path(tempfile.mkdtemp(prefix="nirvana-points-"))
        try:
            self._store = Store(self._folder)
            run = unpack_run(self._store, base)
            asked = study.request.from_json(request)
            session = study.open(run, asked, ModelCache(), self._note)
            assert isinstance(session, SharedSession)
            session.prepare()
            self._session: SharedSession[Any, Any] = session
        except BaseException:
            self.close()
            raise

    def prepare(self, point: Any) -> Result:
        """Compute what the point shares with others, see `SharedSession.share`; nothing where that fails, so that each
        point fails with its own error.
        """
        self._state = Progress("", 0, 1)
        try:
            run = self._session.share(point, self._note)
        except Cancelled:
            raise
        except Exception as error:
            if not (isinstance(error, NirvanaError) or is_out_of_memory(error)):
                raise
            self._session.release()
            return Result(None, None)
        return Result(None, pack_run(run) if run is not None else None)

    def measure(self, point: Any, donor: Packed | None, rows: list[dict[str, Any]]) -> Result:
        """Measure a point; a failure, also by lack of memory, is a row.

        Args:
            donor: a run with results that the point shares.
            rows: those of the study so far, as JSON.
        """
        self._state = Progress("", 0, 1)
        self._session.receive(unpack_run(self._store, donor) if donor is not None else None, rows)
        start = perf_counter()
        row = measured(self._session, point, self._note)
        data = replace(row, seconds=round(perf_counter() - start, 2)).to_json()
        run_id = data.get("run_id", "")
        return Result(data, pack_run(self._store.open(run_id)) if run_id else None)

    def state(self) -> Progress:
        """The last report of the point's progress."""
        return self._state

    def close(self) -> None:
        """Stop at the next report, and delete the worker's store."""
        self._closed = True
        shutil.rmtree(self._folder, ignore_errors=True)

    def _note(self, progress: Progress) -> None:
        self._state = progress
        if self._closed:
            raise Cancelled
