"""Ids of runs and jobs, and the identity of the processes that own jobs."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from functools import lru_cache

import psutil

ID = re.compile(r"[0-9a-z]{12}", re.ASCII)
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # base 32 without letters that resemble digits
_last_stamp = 0
_stamp_lock = threading.Lock()


def new_id() -> str:
    """12 characters, safe in URLs and file names; later ids sort after earlier ones."""
    global _last_stamp
    with _stamp_lock:
        stamp = _last_stamp = max(int(time.time() * 1000), _last_stamp + 1)
    digits = [_ALPHABET[stamp >> shift & 31] for shift in range(40, -1, -5)]
    return "".join(digits) + "".join(secrets.choice(_ALPHABET) for _ in range(3))


@lru_cache(maxsize=2)
def _identity(pid: int) -> tuple[int, float]:
    return pid, psutil.Process(pid).create_time()


def this_process() -> tuple[int, float]:
    """Process id and start time: together they identify a process even after its id is reused."""
    return _identity(os.getpid())


def is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # another user's process: it exists, but its start time is not readable
