"""Child processes of tests."""

from __future__ import annotations

import contextlib
import signal

import psutil

from nirvana.jobs.queue import WORKER


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
