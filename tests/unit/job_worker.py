"""A worker with small tasks that behave badly on purpose, started in place of the real one by the tests of jobs."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from nirvana.errors import CorpusError
from nirvana.jobs import worker
from nirvana.jobs.tasks import Task
from nirvana.progress import Progress


def work(run: Any, *, reporter: Any, seconds: float = 0.0, **_: Any) -> dict[str, Any]:
    """Work in small units, and stop when asked to."""
    reporter.step("model", 1, 2)
    reporter.step("calibration", 2, 2)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        reporter.progress(Progress("Working", 1, 4))
        time.sleep(0.02)
    reporter.progress(Progress("Working", 4, 4))
    return {"pid": os.getpid(), "run": run.id}


def write(run: Any, *, reporter: Any, **_: Any) -> None:
    """Report the same text until asked to stop."""
    reporter.step("continue", 1, 1)
    while True:
        reporter.progress(Progress("Writing", 3, 8, "Once upon"))
        time.sleep(0.02)


def deaf(run: Any, *, reporter: Any, **_: Any) -> None:
    """Never look whether to stop, and leave a file half written."""
    reporter.step("saliency", 1, 1)
    (run.folder / ".saliency-half").write_bytes(b"half")
    (run.folder / "begun").touch()
    time.sleep(600)


def hold(run: Any, **_: Any) -> None:
    """Keep the interpreter's lock for long stretches, as a computation in C may."""
    (run.folder / "begun").touch()
    sleep = ctypes.PyDLL(None).usleep
    while True:
        sleep(500_000)


def chatter(run: Any, *, reporter: Any, **_: Any) -> dict[str, Any]:
    """Print to stdout in every way there is."""
    reporter.step("model", 1, 1)
    print("printed")
    sys.stdout.flush()
    os.write(1, b'{"event": "end", "status": "failed"}\n')
    print("said on stderr", file=sys.stderr)
    return {"read": sys.stdin.read()}


def die(run: Any, *, reporter: Any, **_: Any) -> None:
    reporter.step("saliency", 1, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def leave(run: Any, **_: Any) -> None:
    print("a library gave up", file=sys.stderr, flush=True)
    os._exit(3)


def starve(run: Any, *, reporter: Any, **_: Any) -> None:
    reporter.step("saliency", 1, 1)
    raise MemoryError


def refuse(run: Any, *, reporter: Any, **_: Any) -> None:
    reporter.step("calibration", 1, 1)
    raise CorpusError("The text is too short.", "Give more.")


def break_down(run: Any, **_: Any) -> None:
    raise ZeroDivisionError("division by zero")


TASKS = {
    "work": Task(work, {"seconds": 0.0}),
    "write": Task(write, {}),
    "deaf": Task(deaf, {}),
    "hold": Task(hold, {}),
    "chatter": Task(chatter, {}),
    "die": Task(die, {}),
    "leave": Task(leave, {}),
    "starve": Task(starve, {}),
    "refuse": Task(refuse, {}),
    "break": Task(break_down, {}),
}

if __name__ == "__main__":
    if os.environ.get("TEST_WORKER_PID"):
        Path(os.environ["TEST_WORKER_PID"]).write_text(str(os.getpid()))
    worker.main(TASKS)
