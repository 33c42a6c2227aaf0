"""Cache of expensive steps' results by the hash of their inputs, shared by all runs and processes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

import nirvana
from nirvana.errors import NirvanaError
from nirvana.files import cache_folder, json_hash, parse_json, read_file, write_bytes
from nirvana.progress import ProgressCallback, report

LIMIT = 1 << 30  # bytes of a folder; beyond it the least recently used results are removed
LARGE = ("statistics",)  # kinds of result with a separate folder and limit
ABANDONED = 3600  # seconds after which an incomplete file is abandoned
PATIENCE = 0.25  # seconds between reports of a process that waits for another's result
Origin = dict[str, Any]  # "cached": whether the result was read; "seconds": how long its computation took
Result = TypeVar("Result")
log = logging.getLogger(__name__)


def cache_key(kind: str, **inputs: Any) -> str:
    """Name of a result: its kind, and the hash of its inputs and of the version of this package."""
    return f"{kind}-{json_hash({**inputs, 'version': nirvana.__version__})[:40]}"


def through_cache(
    key: str,
    read: Callable[[bytes], Result],
    write: Callable[[Result], bytes],
    compute: Callable[[], Result],
    *,
    keep: bool = True,
    progress: ProgressCallback | None = None,
) -> tuple[Result, Origin]:
    """The result of `key`: read from the cache, or computed and, with `keep`, cached.

    While another process computes a result that it will cache, this one waits for it; `progress` may end the wait.
    """
    known = _parsed(key, read)
    if known is not None:
        return known
    with _computing(key if keep else "", progress) as waited:
        known = _parsed(key, read) if waited else None
        if known is not None:
            return known
        start = time.perf_counter()
        result = compute()
        seconds = time.perf_counter() - start
        if keep:
            write_cached(key, write(result), seconds=seconds)
    return result, {"cached": False, "seconds": seconds}


def _parsed(key: str, read: Callable[[bytes], Result]) -> tuple[Result, Origin] | None:
    """A cached result; None where it is missing or damaged."""
    found = read_cached(key)
    if found is None:
        return None
    meta, content = found
    try:
        return read(content), {"cached": True, "seconds": meta.get("seconds")}
    except MemoryError:
        raise
    except Exception as error:  # parsers raise many kinds on foreign bytes
        log.warning("%s is computed again: %s", key, error)
        return None


@contextmanager
def _computing(key: str, progress: ProgressCallback | None) -> Iterator[bool]:
    """Hold the lock of a result while it is computed; yields whether another process held it. The system releases the
    lock of a process that dies.
    """
    path, waited = cache_folder() / "locks" / key, False
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while key and not lock.is_locked:
            try:
                lock.acquire(timeout=PATIENCE if waited else 0)
            except Timeout:
                waited = True
                report(progress, "Waiting for the same result of another run", 0, 0)
    except (OSError, NotImplementedError) as error:  # a folder without locks or write access
        log.warning("%s is computed without a lock: %s", key, error)
    try:
        yield waited
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)  # who waits for it finds the result first
            lock.release()


def read_cached(key: str) -> tuple[dict[str, Any], bytes] | None:
    """The metadata of a result and its content, or None where it is missing or damaged."""
    path = _path(key)
    try:
        head, _, content = read_file(path).partition(b"\n")
        meta = parse_json(head)
        if meta["bytes"] != len(content):
            raise ValueError("it is truncated")
        path.touch()  # used now
        return meta, content
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s cannot be used: %s", path, error)
        return None


def write_cached(key: str, content: bytes, **meta: Any) -> None:
    """Store a result. A full disk is ignored: the result is computed again next time."""
    head = json.dumps({**meta, "bytes": len(content)}).encode()
    try:
        write_bytes(_path(key), head + b"\n" + content)
        _trim(_path(key).parent)
    except (NirvanaError, OSError) as error:
        log.warning("A result is not cached: %s", error)


def _path(key: str) -> Path:
    kind = key.partition("-")[0]
    return cache_folder() / (kind if kind in LARGE else "steps") / key


def _trim(folder: Path) -> None:
    files = []
    for path in folder.iterdir():
        try:
            found = path.stat()
        except FileNotFoundError:
            continue  # another process may trim too
        if path.name.startswith("."):
            if found.st_mtime < time.time() - ABANDONED:
                path.unlink(missing_ok=True)
        else:
            files.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= LIMIT:
            break
        path.unlink(missing_ok=True)
        total -= size
