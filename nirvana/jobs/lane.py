"""Lane of one device: its queue of jobs and its worker process, on the parent's side."""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nirvana
from nirvana.environment import thread_policy
from nirvana.errors import KEPT, Cancelled, RunError
from nirvana.jobs.records import Outcome, outcome_of
from nirvana.out_of_memory import ADVICE, kills

SETTINGS = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}  # of the worker's environment
GRACE = 0.7  # seconds between asking a job to stop and killing its worker
SAVING = 60.0  # likewise in a recovery, which saves its state
IDLE_MINUTES = "NIRVANA_IDLE_MINUTES"  # variable: minutes after which an idle worker ends; 0 for never
LOG_LINES = 500
LOG_END = "\x04"  # the worker ends the log of each job with it
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Live:
    """State of a job while it runs.

    `done` of `total` units of `stage` are done in `step`, the `step_number`-th of `steps`; a total of 0 means that the
    length is not known. `text` is the text generated so far. Times are seconds since 1970.

    Attributes:
        begun: start time of the step, or of a study's first point, and its number.
        first: time of the first report with a known length, and its fraction of the step.
        last: likewise of the report with the largest fraction so far.
    """

    stage: str = ""
    done: int = 0
    total: int = 0
    step: str = ""
    step_number: int = 0
    steps: int = 0
    text: str = ""
    begun: tuple[float, int] = field(default=(0.0, 1), repr=False)
    first: tuple[float, float] | None = field(default=None, repr=False)
    last: tuple[float, float] | None = field(default=None, repr=False)

    def after(self, event: dict[str, Any]) -> Live:
        """The state after a worker's event "step" or "progress"."""
        now = time.time()
        if event["event"] == "step":
            step, number = event["step"], event["number"]
            begun = self.begun if step == self.step else (now, number)
            return Live(step=step, step_number=number, steps=event["steps"], begun=begun)
        first, last, total = self.first, self.last, event["total"]
        if total:
            report = now, event["done"] / total
            first = first or report
            last = report if last is None or report[1] > last[1] else last
        shown = {name: event[name] for name in ("stage", "done", "total", "text")}
        return replace(self, **shown, first=first, last=last)


@dataclass(eq=False)
class Entry:
    """A job of this process."""

    id: str
    command: dict[str, Any]
    cancelled: bool = False
    live: Live = Live()
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES))


class WorkerProcess:
    """The child with its pipes. `events` yields its events, then None at its end."""

    def __init__(self, command: Sequence[str], on_line: Callable[[str], None]) -> None:
        package = str(Path(nirvana.__file__).parents[1])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self.events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.settled = threading.Event()  # whether the log of the last job is complete
        self._on_line = on_line
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **thread_policy(os.environ), **SETTINGS, "PYTHONPATH": path},
        )
        self.pid = self._process.pid
        self.kills_before: int | None = None  # of `out_of_memory.kills`, at the start of the present job
        self._lines = threading.Thread(target=self._read_lines, name="worker log", daemon=True)
        self._lines.start()
        threading.Thread(target=self._read_events, name="worker events", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, command: dict[str, Any]) -> None:
        """Send a command; the end of a worker shows in `events`."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(command).encode() + b"\n")
            stdin.flush()
        except (OSError, ValueError):
            log.info("Worker %d takes no commands any more", self.pid)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code; None if it has not ended within `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def drain(self) -> None:
        """Wait for the last lines of its log after its end."""
        self._lines.join(timeout=1)

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self.events.put(json.loads(line))
            except ValueError:
                self._on_line(line.decode(errors="replace").rstrip())
        self._process.wait()
        self.events.put(None)

    def _read_lines(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip().rsplit("\r", 1)[-1]  # of a progress bar, its last state
            if text == LOG_END:
                self.settled.set()
            elif text:
                self._on_line(text)


def idle_seconds() -> float | None:
    """Seconds after which an idle worker ends and gives its memory back; None for never.

    10 minutes, or as many as the variable NIRVANA_IDLE_MINUTES says; anything but a number in it is ignored.
    """
    try:
        minutes = float(os.environ.get(IDLE_MINUTES, ""))
    except ValueError:
        minutes = 10.0
    return 60 * minutes if 0 < minutes < threading.TIMEOUT_MAX / 60 else None


class Lane:
    """Jobs of one device, one at a time, in order of submission.

    `on_start(entry)` and `on_end(entry, outcome)` are called from the lane's own thread. A worker without jobs keeps
    its models in memory for `idle` seconds, then it ends; None for ever.
    """

    def __init__(
        self,
        device: str,
        command: Sequence[str],
        on_start: Callable[[Entry], None],
        on_end: Callable[[Entry, Outcome], None],
        idle: float | None = None,
    ) -> None:
        self.device = device
        self._idle = idle
        self.resident: list[dict[str, Any]] = []
        self._command = command
        self._on_start = on_start
        self._on_end = on_end
        self._changed = threading.Condition()
        self._waiting: deque[Entry] = deque()
        self._current: Entry | None = None
        self._worker: WorkerProcess | None = None
        self._closed = False
        threading.Thread(target=self._serve, name=f"jobs on {device}", daemon=True).start()

    @property
    def next_place(self) -> int:
        """Place of a job that is added now: 0 where it starts at once, else from 1 in the queue."""
        with self._changed:
            return len(self._waiting) + 1 if self._current is not None or self._waiting else 0

    def add(self, entry: Entry) -> None:
        with self._changed:
            self._waiting.append(entry)
            self._changed.notify_all()

    def cancel(self, entry: Entry) -> bool:
        """Stop a job; True if it was still queued. A running one is asked to stop, and after GRACE, or SAVING
        in a recovery, its worker is killed.
        """
        with self._changed:
            entry.cancelled = True
            if entry in self._waiting:
                self._waiting.remove(entry)
                return True
            if self._current is entry and self._worker is not None:
                self._worker.events.put({"event": "cancel", "job": entry.id})
        return False

    def unload(self) -> bool:
        """End an idle worker to release its memory; False while jobs need it."""
        with self._changed:
            if self._current is not None or self._waiting:
                return False
            self._drop()
            return True

    def close(self) -> list[Entry]:
        """Kill the worker and stop; returns the unfinished jobs."""
        with self._changed:
            self._closed = True
            undone = [*([self._current] if self._current else []), *self._waiting]
            self._waiting.clear()
            self._drop()
            self._changed.notify_all()
        return undone

    def _drop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait(timeout=1)
        self._worker = None
        self.resident = []

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    if not self._changed.wait(self._idle if self._worker is not None else None):
                        log.info("The idle worker on %s gives its memory back", self.device)
                        self._drop()
                if self._closed:
                    return
                entry = self._current = self._waiting.popleft()
            try:
                self._on_start(entry)
                outcome = self._perform(entry)
            except Exception as error:
                log.exception("Job %s failed", entry.id)
                outcome = Outcome("failed", {"message": f"The job could not be started: {error}.", "hint": ""})
            with self._changed:
                if self._closed:
                    return  # the caller of `close` records the end of the job
            try:
                self._on_end(entry, outcome)
            except Exception:
                log.exception("The end of job %s could not be recorded", entry.id)
            with self._changed:
                self._current = None
                self._changed.notify_all()

    def _perform(self, entry: Entry) -> Outcome:
        with self._changed:
            if self._closed:
                return Outcome("interrupted")
            if self._worker is None or not self._worker.alive:
                entry.live = Live(stage="Starting the worker")
                self.resident = []
                self._worker = WorkerProcess(self._command, self._log)
            worker = self._worker
            worker.settled.clear()
            worker.kills_before = kills()
            worker.send(entry.command)
            if entry.cancelled:  # before there was a worker
                worker.events.put({"event": "cancel", "job": entry.id})
        deadline: float | None = None
        while True:
            try:
                event = worker.events.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))
            except queue.Empty:
                worker.kill()
                deadline = None
                continue
            if event is None:
                return self._died(entry, worker)
            if event["event"] == "resident":
                self.resident = [{"device": self.device, **model} for model in event["models"]]
            elif event["job"] != entry.id:
                continue
            elif event["event"] == "end":
                worker.settled.wait(1)
                return Outcome(event["status"], event["error"], event["result"])
            elif event["event"] == "cancel":
                worker.send({"cancel": entry.id})
                deadline = time.monotonic() + (SAVING if entry.live.step == "recover" else GRACE)
            else:
                entry.live = entry.live.after(event)

    def _died(self, entry: Entry, worker: WorkerProcess) -> Outcome:
        """The outcome of a job whose worker ended without reporting one."""
        code = worker.wait()
        worker.drain()
        self.resident = []
        if entry.cancelled:
            return outcome_of(Cancelled(), entry.live.step)
        if code in (-9, 137):
            message, hint = _killed(worker.kills_before, kills())
        else:
            message, hint = f"The worker stopped with exit code {code}.", "The log has the details."
        return outcome_of(RunError(message, f"{hint} {KEPT}"), entry.live.step)

    def _log(self, line: str) -> None:
        entry = self._current
        if entry is not None:
            entry.lines.append(line)


def _killed(before: int | None, after: int | None) -> tuple[str, str]:
    """Message and hint for a killed worker, by the system's counts of processes killed for lack of memory."""
    if before is None or after is None:
        return "The worker was killed, perhaps by the system because memory ran out.", ADVICE
    if after > before:
        return "The system killed the worker because memory ran out.", ADVICE
    return "The worker was killed by another program or by hand.", "The system did not run out of memory. Try again."
