"""Jobs: tasks on runs, performed by one worker process a device, in a queue on disk."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nirvana.errors import Cancelled, NirvanaError, RunError
from nirvana.files import read_text, write_bytes
from nirvana.jobs.execute import check_task
from nirvana.jobs.lane import Entry, Lane, Live, idle_seconds
from nirvana.jobs.records import Outcome, device_of, outcome_of, record_job
from nirvana.runs.index import LIVE
from nirvana.runs.store import Store

RECORDING_ATTEMPTS, PAUSE = 60, 1.0  # seconds between them
log = logging.getLogger(__name__)
WORKER = (sys.executable, "-P", "-m", "nirvana.jobs.worker")


@dataclass(frozen=True, kw_only=True)
class Job(Live):
    """The present state of a job. `position` is 0 while it runs, else its place in its device's queue, from 1. Times
    are seconds since 1970.
    """

    id: str
    run_id: str
    task: str  # one of `nirvana.jobs.registry.TASKS`
    arguments: dict[str, Any]
    device: str
    status: str  # "queued", "running", "done", "failed", "cancelled" or "interrupted"
    position: int
    created: float
    started: float | None
    finished: float | None
    error: dict[str, Any] | None  # "step", "message", "hint"
    result: dict[str, Any] | None

    @property
    def live(self) -> bool:
        return self.status in LIVE

    @property
    def fraction(self) -> float:
        """Finished share of the current step, in [0, 1]."""
        if not self.live:
            return 1.0 if self.status == "done" else 0.0
        return min(self.done / self.total, 1.0) if self.total else 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since it started; 0 in the queue."""
        return 0.0 if self.started is None else (self.finished or time.time()) - self.started

    @property
    def eta(self) -> float | None:
        """Seconds left in the current step at its pace so far; None in the first second and the first 2 %."""
        if self.status != "running" or self.first is None or self.last is None:
            return None
        (start, before), (newest, fraction) = self.first, self.last
        spent, gained = newest - start, fraction - before
        if spent <= 1 or gained <= 0.02:
            return None
        return max(spent / gained * (1 - fraction) - (time.time() - newest), 0.0)


class JobManager:
    """Queues jobs, starts workers on demand, and records outcomes. Thread-safe. Several managers may use one store;
    each owns the jobs submitted to it. Jobs of owners that have ended are marked interrupted when a manager starts.
    """

    def __init__(self, store: Store, *, worker: Sequence[str] = WORKER) -> None:
        self.store = store
        self._worker = tuple(worker)
        self._lock = threading.RLock()
        self._lanes: dict[str, Lane] = {}
        self._owned: dict[str, tuple[Entry, Lane]] = {}  # live jobs by id
        self._pid = os.getpid()
        self._closed = False
        store.index.interrupt()
        atexit.register(self.close)

    def submit(self, run_id: str, *, task: str = "run", **arguments: Any) -> Job:
        """Queue a task on a run.

        Args:
            run_id: of a run of the store.
            task: one of `nirvana.jobs.registry.TASKS`.
            arguments: fields of the task's request, as JSON values.

        Raises:
            RunError: the run is unknown or the example, or computed on another device.
            NirvanaError: see `check_task`.
        """
        run = self.store.open(run_id)
        clean = check_task(run, task, arguments).to_json()
        device = device_of(run)
        with self._lock:
            if self._closed:
                raise RunError("The server is stopping.", "Start it again.")
            if any(job.live and job.device != device for job in self.jobs(run_id)):
                raise RunError("This run is being computed on another device.", "Wait for that job, or cancel it.")
            job_id = record_job(run, task, clean, running=False)
            command = {"job": job_id, "task": task, "run": run_id, "arguments": clean}
            entry = Entry(job_id, {**command, "root": str(self.store.root.resolve())})
            lane = self._lanes.get(device)
            if lane is None:
                lane = self._lanes[device] = Lane(device, self._worker, self._started, self._ended, idle_seconds())
            self._owned[job_id] = entry, lane
            lane.add(entry)
        return self.job(job_id)

    def jobs(self, run_id: str | None = None, *, limit: int = 200, visitor: str | None = None) -> list[Job]:
        """Jobs of a run, or of all runs, newest first; with `visitor`, those of its runs (see `Store.of`)."""
        where, values = ("run_id = ?", [run_id]) if run_id else ("1", [])
        return self._select(f"{where} ORDER BY number DESC LIMIT ?", *values, limit, visitor=visitor)

    def live_jobs(self, *, visitor: str | None = None) -> list[Job]:
        """Running and queued jobs, the next one first; with `visitor` as in `jobs`."""
        found = self._select("status IN (?, ?)", *LIVE, visitor=visitor)
        return sorted(found, key=lambda job: (job.position, job.created))

    def job(self, job_id: str, *, visitor: str | None = None) -> Job:
        """The present state of a job.

        Raises:
            RunError: there is no such job, or with `visitor` none of that visitor.
        """
        found = self._select("id = ?", job_id, visitor=visitor)
        if not found:
            raise RunError("There is no such job.", "Its run may have been deleted.")
        return found[0]

    def live(self, run_id: str) -> Job | None:
        """The running job of a run, else its next queued one, or None."""
        return next((job for job in self.live_jobs() if job.run_id == run_id), None)

    def others(self) -> int:
        """Number of live jobs of others: 0, since all jobs are the user's."""
        return 0

    def next_place(self, device: str) -> int:
        """The `position` of a job that is submitted now: 0 where it starts at once."""
        with self._lock:
            lane = self._lanes.get(device)
        return lane.next_place if lane is not None else 0

    def log(self, job_id: str, lines: int = 40) -> list[str]:
        """The last lines of a job's log."""
        owned = self._owned.get(job_id)
        if owned is not None:
            return list(owned[0].lines)[-lines:]
        try:
            return read_text(self._log_file(self.job(job_id).run_id, job_id)).splitlines()[-lines:]
        except (OSError, ValueError, RunError):
            return []

    def cancel(self, job_id: str) -> None:
        """Stop a job. A queued one ends at once; a running one is asked to stop, and its worker is killed if it does
        not.

        Results of finished steps stay. Ignored for a job that has ended.

        Raises:
            RunError: the job is unknown, or belongs to another program.
        """
        job = self.job(job_id)
        owned = self._owned.get(job_id)
        if owned is not None:
            entry, lane = owned
            if lane.cancel(entry):
                self._ended(entry, outcome_of(Cancelled(hint="")))
        elif job.live and self.job(job_id).live:  # it may have ended since it was read
            raise RunError("This job belongs to another program.", "Cancel it there.")

    def unload(self) -> None:
        """End the workers to release their memory.

        Raises:
            RunError: a job is live.
        """
        with self._lock:
            lanes = list(self._lanes.values())
        unloaded = [lane.unload() for lane in lanes]
        if not all(unloaded):
            raise RunError("The model is in use.", "Wait for the job to end, or cancel it.")

    def resident(self) -> list[dict[str, Any]]:
        """Models in the workers' memory: "device", "model", "bytes"."""
        with self._lock:
            return [model for lane in self._lanes.values() for model in lane.resident]

    def close(self) -> None:
        """End all workers at once; unfinished jobs are marked interrupted."""
        if os.getpid() != self._pid:
            return  # a fork has a copy of this object without the workers
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            for lane in self._lanes.values():
                for entry in lane.close():
                    with contextlib.suppress(NirvanaError):
                        self.store.index.interrupt(entry.id)
            self._owned.clear()

    def _started(self, entry: Entry) -> None:
        self.store.index.update("jobs", entry.id, status="running", started=time.time())

    def _ended(self, entry: Entry, outcome: Outcome) -> None:
        run_id = entry.command["run"]
        try:
            run = self.store.open(run_id)
            if outcome.status != "done":
                run.steps.sweep()
            if entry.lines:
                write_bytes(self._log_file(run_id, entry.id), ("\n".join(entry.lines) + "\n").encode())
        except NirvanaError as error:  # a full disk must not hide the outcome
            entry.lines.append(str(error))
        for _ in range(RECORDING_ATTEMPTS):  # otherwise it would count as running while this process lives
            try:
                self.store.index.finish(entry.id, outcome.status, error=outcome.error, result=outcome.result)
                break
            except NirvanaError as error:
                log.warning("The end of job %s is not recorded yet: %s", entry.id, error)
                time.sleep(PAUSE)
        self._owned.pop(entry.id, None)

    def _log_file(self, run_id: str, job_id: str) -> Path:
        return self.store.root / "runs" / run_id / "logs" / f"{job_id}.txt"

    def _select(self, where: str, *values: Any, visitor: str | None) -> list[Job]:
        if not self.store.index.exists:
            return []
        theirs = "1" if visitor is None else "run_id IN (SELECT id FROM runs WHERE visitor = ?)"
        values = values if visitor is None else (visitor, *values)
        rows = self.store.index.rows(f"SELECT * FROM jobs WHERE {theirs} AND {where}", *values)
        waiting: list[dict[str, Any]] = []
        if any(row["status"] == "queued" for row in rows):
            query = "SELECT id, device, owner_pid FROM jobs WHERE status = 'queued' ORDER BY number"
            waiting = self.store.index.rows(query)
        return [self._job(row, waiting) for row in rows]

    def _job(self, row: dict[str, Any], waiting: list[dict[str, Any]]) -> Job:
        position = 0
        if row["status"] == "queued":
            queue = [other["id"] for other in waiting if all(other[k] == row[k] for k in ("device", "owner_pid"))]
            position = queue.index(row["id"]) + 1 if row["id"] in queue else 1
        names = ("id", "run_id", "task", "device", "status", "created", "started", "finished")
        owned = self._owned.get(row["id"]) if row["status"] == "running" else None
        return Job(
            **{name: row[name] for name in names},
            position=position,
            arguments=json.loads(row["arguments"]),
            error=json.loads(row["error"]) if row["error"] else None,
            result=json.loads(row["result"]) if row["result"] else None,
            **(vars(owned[0].live) if owned else {}),
        )
