"""The worker process: performs jobs in turn and keeps the model loaded between them.

Its protocol is JSON lines: commands on stdin, events on stdout. It ends when stdin closes, so it never outlives its
parent.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from nirvana.errors import Cancelled, NirvanaError
from nirvana.jobs.execute import execute
from nirvana.jobs.lane import LOG_END
from nirvana.jobs.records import Outcome, outcome_of
from nirvana.progress import Progress
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.store import Store

INTERVAL = 0.2  # seconds between progress events


class Channel:
    """Events to the parent. The real stdout is redirected, so that no library prints into it."""

    def __init__(self) -> None:
        self._out: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self._lock = threading.Lock()

    def send(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values})
        try:
            with self._lock:
                self._out.write(line + "\n")
                self._out.flush()
        except (OSError, ValueError):
            os._exit(0)  # the parent has ended


class Commands:
    """Commands from the parent, read in a separate thread so that they arrive during a computation."""

    def __init__(self) -> None:
        self._in: IO[str] = os.fdopen(os.dup(0), "r", encoding="utf-8")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        self.jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.cancelled: set[str] = set()
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._in:
                command = json.loads(line)
                if "cancel" in command:
                    self.cancelled.add(command["cancel"])
                else:
                    self.jobs.put(command)
        finally:
            os._exit(0)  # the parent has ended: stop during the computation


class JobReporter:
    """Sends a job's steps to the parent, and its progress a few times a second."""

    def __init__(self, job: str, channel: Channel, commands: Commands) -> None:
        self.job, self.current = job, ""
        self._channel = channel
        self._commands = commands
        self._last = 0.0

    def step(self, step: str, number: int, steps: int) -> None:
        self._check()
        self.current = step
        self._channel.send("step", job=self.job, step=step, number=number, steps=steps)
        self._last = 0.0
        print(f"[{number}/{steps}] {step}", file=sys.stderr, flush=True)

    def progress(self, progress: Progress) -> None:
        self._check()
        now = time.monotonic()
        if now - self._last >= INTERVAL:
            self._last = now
            self._channel.send("progress", job=self.job, **progress._asdict())

    def row(self, row: object) -> None:
        """Ignored: the parent reads rows from the study's journal."""

    def _check(self) -> None:
        if self.job in self._commands.cancelled:
            raise Cancelled()


def main() -> None:
    """Serve jobs until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the parent decides
    channel, models = Channel(), ModelCache()
    commands = Commands()
    while True:
        command = commands.jobs.get()
        outcome = perform(command, JobReporter(command["job"], channel, commands), models)
        print(f"\n{LOG_END}", file=sys.stderr, flush=True)  # a progress bar does not end its line
        channel.send("resident", models=models.resident())
        channel.send("end", job=command["job"], **vars(outcome))


def perform(command: dict[str, Any], reporter: JobReporter, models: ModelCache) -> Outcome:
    """Do one job."""
    try:
        if "torch" not in sys.modules:  # the first job, for seconds
            reporter.progress(Progress("Importing PyTorch", 0, 0))
        run = Store(Path(command["root"])).open(command["run"])
        return Outcome("done", result=execute(run, command["task"], command["arguments"], reporter, models))
    except NirvanaError as error:
        return outcome_of(error, reporter.current)


if __name__ == "__main__":
    main()
