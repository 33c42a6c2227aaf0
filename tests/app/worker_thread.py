"""A worker of jobs within the test's process, which has PyTorch loaded; a process of its own needs seconds for that."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from nirvana.jobs.worker import JobReporter, perform
from nirvana.runs.model_cache import ModelCache


class WorkerThread:
    """Replaces `nirvana.jobs.lane.WorkerProcess`: does the work of `nirvana.jobs.worker.main` with the same events."""

    def __init__(self, command: Sequence[str], on_line: Callable[[str], None]) -> None:
        self.events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.settled = threading.Event()
        self.pid = os.getpid()
        self.cancelled: set[str] = set()
        self._jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="worker", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def send(self, command: dict[str, Any]) -> None:
        if "cancel" in command:
            self.cancelled.add(command["cancel"])
        else:
            self._jobs.put(json.loads(json.dumps(command)))

    def kill(self) -> None:
        """End the thread after its present job, which no test may be in."""
        self._jobs.put(None)

    def wait(self, timeout: float | None = None) -> int | None:
        self._thread.join(timeout)
        return None if self._thread.is_alive() else 0

    def drain(self) -> None:
        """Nothing: there is no log."""

    def _serve(self) -> None:
        channel, models = _Channel(self.events), ModelCache()
        while (command := self._jobs.get()) is not None:
            reporter = JobReporter(command["job"], channel, self)  # type: ignore[arg-type]
            outcome = perform(command, reporter, models)
            self.settled.set()
            channel.send("resident", models=models.resident())
            channel.send("end", job=command["job"], **vars(outcome))
        models.clear()
        self.events.put(None)


class _Channel:
    def __init__(self, events: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        self._events = events

    def send(self, event: str, **values: Any) -> None:
        self._events.put(json.loads(json.dumps({"event": event, **values})))
