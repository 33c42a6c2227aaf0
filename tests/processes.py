"""Child processes of tests."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from nirvana.jobs.queue import WORKER

ROOT = Path(__file__).parents[1]
CALL = "import json, sys; from {0} import {1}; print(json.dumps({1}(*json.loads(sys.argv[1]))))"


def call_in_process(function: Callable[..., Any], *arguments: Any) -> subprocess.Popen[str]:
    """Call a function of a test module in a new process, which prints its result as JSON.

    A fork of a process with threads may hang, and `multiprocessing` runs the main module again in a spawned one, which
    after an app test is a page.
    """
    code = CALL.format(function.__module__, function.__qualname__)
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def heed_interrupts() -> None:
    """For `preexec_fn`: a process started in a shell's background ignores Ctrl+C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def workers(parent: int | None = None, *, command: str = WORKER[-1]) -> list[psutil.Process]:
    """Live processes below `parent`, else below this process, that have `command` among their arguments."""
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended since, or a zombie, which has no arguments
            if command in child.cmdline():
                found.append(child)
    return found
