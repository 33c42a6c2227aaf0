"""A worker with small tasks that behave badly on purpose, started in place of the real one by the tests of jobs."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nirvana.errors import Cancelled, CorpusError
from nirvana.jobs import registry, worker
from nirvana.jobs.lane import GRACE
from nirvana.jobs.task import Task
from nirvana.progress import Progress
from nirvana.schema import Schema, option


class Duration(Schema):
    """Seconds that the task "work" takes."""

    seconds: float = option(0.0, "", "seconds", ge=0)


class Bad(Task[Duration]):
    name = title = "bad"
    request = Duration

    def __init__(self, function: Callable[[Any, Any, float], dict[str, Any] | None]) -> None:
        self.function = function

    def perform(self, run: Any, request: Duration, models: Any, reporter: Any) -> dict[str, Any] | None:
        return self.function(run, reporter, request.seconds)


def work(run: Any, reporter: Any, seconds: float) -> dict[str, Any]:
    """Work in small units, and stop when asked to."""
    reporter.step("model", 1, 2)
    reporter.step("calibration", 2, 2)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        reporter.progress(Progress("Working", 1, 4))
        time.sleep(0.02)
    reporter.progress(Progress("Working", 4, 4))
    return {"pid": os.getpid(), "run": run.id}


def write(run: Any, reporter: Any, seconds: float) -> None:
    """Report the same text until asked to stop."""
    reporter.step("continue", 1, 1)
    while True:
        reporter.progress(Progress("Writing", 3, 8, "Once upon"))
        time.sleep(0.02)


def deaf(run: Any, reporter: Any, seconds: float) -> None:
    """Never look whether to stop, and leave a file half written."""
    reporter.step("saliency", 1, 1)
    (run.folder / ".saliency-half").write_bytes(b"half")
    (run.folder / "begun").touch()
    time.sleep(600)


def train(run: Any, reporter: Any, seconds: float) -> None:
    """Take longer to save the state than another job may take to stop."""
    reporter.step("recover", 1, 1)
    try:
        while True:
            reporter.progress(Progress("Recovering", 1, 4))
            time.sleep(0.02)
    except Cancelled:
        time.sleep(2 * GRACE)
        (run.folder / "saved").touch()
        raise


def hold(run: Any, reporter: Any, seconds: float) -> None:
    """Keep the interpreter's lock for long stretches, as a computation in C may."""
    (run.folder / "begun").touch()
    sleep = ctypes.PyDLL(None).usleep
    while True:
        sleep(500_000)


def chatter(run: Any, reporter: Any, seconds: float) -> dict[str, Any]:
    """Print to stdout in every way there is."""
    reporter.step("model", 1, 1)
    print("printed")
    sys.stdout.flush()
    os.write(1, b'{"event": "end", "status": "failed"}\n')
    print("said on stderr", file=sys.stderr)
    return {"read": sys.stdin.read()}


def die(run: Any, reporter: Any, seconds: float) -> None:
    reporter.step("saliency", 1, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def leave(run: Any, reporter: Any, seconds: float) -> None:
    print("a library gave up", file=sys.stderr, flush=True)
    os._exit(3)


def starve(run: Any, reporter: Any, seconds: float) -> None:
    reporter.step("saliency", 1, 1)
    raise MemoryError


def refuse(run: Any, reporter: Any, seconds: float) -> None:
    reporter.step("calibration", 1, 1)
    raise CorpusError("The text is too short.", "Give more.")


def break_down(run: Any, reporter: Any, seconds: float) -> None:
    raise ZeroDivisionError("division by zero")


TASKS = {
    name: Bad(function)
    for name, function in {
        "work": work,
        "write": write,
        "deaf": deaf,
        "train": train,
        "hold": hold,
        "chatter": chatter,
        "die": die,
        "leave": leave,
        "starve": starve,
        "refuse": refuse,
        "break": break_down,
    }.items()
}

if __name__ == "__main__":
    if os.environ.get("TEST_WORKER_PID"):
        Path(os.environ["TEST_WORKER_PID"]).write_text(str(os.getpid()))
    registry.TASKS.update(TASKS)
    worker.main()
