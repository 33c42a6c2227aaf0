"""The index of runs and jobs: one SQLite file in WAL mode that several processes read and write at once."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from nirvana.errors import RunError

LIVE = ("queued", "running")
VERSION = 2
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # base 32 without letters that are taken for digits
_last_stamp = 0
_stamp_lock = threading.Lock()
_INTERRUPTED = {
    "message": "The program that computed this stopped before it was done.",
    "hint": "Start it again; the steps that were finished are kept.",
}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    recipe TEXT NOT NULL,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0,
    study TEXT REFERENCES runs(id) ON DELETE CASCADE
);
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    task TEXT NOT NULL,
    until TEXT NOT NULL,
    arguments TEXT NOT NULL,
    device TEXT NOT NULL,
    status TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    error TEXT,
    result TEXT,
    owner_pid INTEGER NOT NULL,
    owner_started REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_of_run ON jobs (run_id, number);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status);
CREATE INDEX IF NOT EXISTS runs_of_study ON runs (study);
"""
_CHANGES = {  # version of an older index: what makes the next one of it
    1: "ALTER TABLE runs ADD COLUMN study TEXT REFERENCES runs(id) ON DELETE CASCADE",
}


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
    """Process id and start time: together they name a process even after its id is used again."""
    return _identity(os.getpid())


def is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # someone else's process: it is there, and that is all that can be known


class Index:
    """Rows of runs and jobs. A connection lives for one call, so that threads and forks share none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def connect(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """A transaction: committed at the end of the block, undone if it raises.

        It takes the write lock at once, since a reader that turns writer half way can fail.

        Raises:
            RunError: the file is damaged, cannot be written, or stays locked.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=10, isolation_level=None)) as connection:
                connection.row_factory = sqlite3.Row
                if _version(connection) > VERSION:
                    raise RunError(
                        f"{self.path.name} was written by a newer version of this program.", "Update the program."
                    )
                if _version(connection) < VERSION:
                    _upgrade(connection)
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(begin)
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise RunError(
                f"The index of runs, {self.path}, cannot be used: {error}.",
                "Check free disk space and permissions; if the file is damaged, move it away to start a new index.",
            ) from error

    def insert(self, table: str, **values: Any) -> None:
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        with self.connect() as connection:
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", _encode(values))

    def update(self, table: str, key: str, **values: Any) -> bool:
        """Change one row; False where it does not exist."""
        names = ", ".join(f"{name} = ?" for name in values)
        with self.connect() as connection:
            cursor = connection.execute(f"UPDATE {table} SET {names} WHERE id = ?", [*_encode(values), key])
            return cursor.rowcount > 0

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of a SELECT, as dictionaries."""
        with self.connect("BEGIN DEFERRED") as connection:
            return [dict(row) for row in connection.execute(query, values)]

    def interrupt(self, job_id: str | None = None) -> None:
        """Mark live jobs whose owner is gone (or `job_id`, whoever owns it) as interrupted; their results stay."""
        if not self.path.exists():
            return
        for job in self.rows("SELECT id, owner_pid, owner_started FROM jobs WHERE status IN (?, ?)", *LIVE):
            if job["id"] == job_id or not is_alive(job["owner_pid"], job["owner_started"]):
                self.finish(job["id"], "interrupted", error=_INTERRUPTED)

    def finish(
        self,
        job_id: str,
        status: str,
        *,
        error: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> bool:
        """End a live job, once; False where it has ended already."""
        values = [status, time.time(), *_encode({"error": error, "result": result}), job_id, *LIVE]
        with self.connect() as connection:
            cursor = connection.execute(
                "UPDATE jobs SET status = ?, finished = ?, error = ?, result = ? WHERE id = ? AND status IN (?, ?)",
                values,
            )
            return cursor.rowcount > 0


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _upgrade(connection: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an older version up to date; rows stay as they are."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)  # again: another process may have been faster
        for older in range(version or VERSION, VERSION):
            connection.execute(_CHANGES[older])
        if version < VERSION:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _encode(values: Mapping[str, Any]) -> list[Any]:
    return [json.dumps(value) if isinstance(value, Mapping) else value for value in values.values()]
