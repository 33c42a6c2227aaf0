"""The index of runs and jobs: one SQLite file in WAL mode, shared by several processes."""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from nirvana.errors import RunError
from nirvana.runs.identity import is_alive
from nirvana.runs.record import FILE as RECORD
from nirvana.runs.record import adopt, record_of, unlisted, write_record

LIVE = ("queued", "running")
VERSION = 4
log = logging.getLogger(__name__)
_INTERRUPTED = {
    "message": "The program that computed this stopped before it finished.",
    "hint": "Start it again; the finished steps are kept.",
}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    recipe TEXT NOT NULL,
    created REAL NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0,
    study TEXT REFERENCES runs(id) ON DELETE CASCADE,
    visitor TEXT NOT NULL DEFAULT ''
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
_CHANGES = {  # version of an older index -> statement that upgrades it to the next
    1: "ALTER TABLE runs ADD COLUMN study TEXT REFERENCES runs(id) ON DELETE CASCADE",
    2: "ALTER TABLE runs DROP COLUMN updated",
    3: "ALTER TABLE runs ADD COLUMN visitor TEXT NOT NULL DEFAULT ''",
}
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_FOREIGN = """
SELECT 1 FROM runs WHERE (
    length(id) = 12 AND json_valid(recipe) AND typeof(created) = 'real' AND typeof(visitor) = 'text'
) IS NOT 1
UNION ALL SELECT 1 FROM jobs WHERE (
    json_valid(arguments) AND json_valid(coalesce(error, '{}')) AND json_valid(coalesce(result, '{}'))
    AND owner_pid BETWEEN 1 AND 4294967295 AND typeof(owner_started) = 'real' AND typeof(created) = 'real'
) IS NOT 1
"""  # rows that this program never writes


class IndexReplaced(RunError):
    """A transaction found the index damaged; it has been replaced."""


class Index:
    """Rows of runs and jobs. Each call opens its own connection, so threads and forks share none. The data of a run are
    also in its folder (`nirvana.runs.record`): a missing index is rebuilt from there, and a damaged one is moved aside,
    kept, and replaced.

    Attributes:
        path: the file.
        notices: messages for the user about an index that was replaced or completed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders = path.parent / "runs"
        self.notices: list[str] = []

    @property
    def exists(self) -> bool:
        """Whether there is an index, or a folder of runs to build one from.

        Raises:
            RunError: the data folder cannot be read.
        """
        try:
            return self.path.exists() or self.folders.exists()
        except OSError as error:
            raise RunError(f"{self.path.parent} cannot be read: {error}.", "Check its permissions.") from error

    @contextmanager
    def connect(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """A transaction: committed at the end of the block, rolled back if it raises. It takes the write lock at once,
        since a reader that becomes a writer can fail.

        Raises:
            IndexReplaced: the file was damaged and has been replaced.
            RunError: it is of a newer version, cannot be written, or stays locked.
        """
        try:
            with closing(self._open()) as connection:
                connection.execute(begin)
                with _undone_on_error(connection):
                    yield connection
                    connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            if self._replace(error):
                raise IndexReplaced("The index of runs was damaged and has been replaced.", "Do it again.") from error
            raise RunError(
                f"The index of runs, {self.path}, cannot be used: {error}.",
                f"Check free disk space and the permissions of {self.path.parent}.",
            ) from error

    def verify(self) -> None:
        """Read the whole index and replace it if it is damaged; `connect` finds damage only in the rows that it
        reads.
        """
        try:
            damaged = self._is_damaged("quick_check")
        except OSError:
            return  # `connect` raises the error
        if damaged:
            self._replace(None)

    def adopt(self) -> None:
        """Add runs with a folder but no row, e.g. after an older copy of the index was restored.

        Raises:
            RunError: as `connect`.
        """
        if not self.exists:
            return
        known = {row["id"] for row in self.rows("SELECT id FROM runs")}
        if any((folder / RECORD).exists() for folder in unlisted(self.folders, known)):
            with self.connect() as connection:
                found = adopt(connection, self.folders)
            if found.count:
                self._tell(f"The index of runs was incomplete. Added: {found}.")

    def _tell(self, sentence: str) -> None:
        self.notices.append(sentence)
        log.warning(sentence)

    def _open(self) -> sqlite3.Connection:
        """A connection to a complete index of this version."""
        try:
            return self._prepare()
        except (sqlite3.Error, OSError) as error:
            if not self._replace(error):
                raise
        return self._prepare()

    def _prepare(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not self.path.is_file():  # SQLite would block on a named pipe
            raise IsADirectoryError(f"{self.path.name} is not a file")
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            version = _version(connection)
            if version > VERSION:
                raise RunError(
                    f"{self.path.name} was written by a newer version of this program.", "Update the program."
                )
            if version < VERSION:
                self._upgrade(connection)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        """Create the tables and add the runs that have folders, or upgrade an older index.

        One process at a time: SQLite does not wait where two of them change the journal mode.
        """
        with FileLock(self.path.with_name(f"{self.path.name}.lock"), timeout=10):
            self._upgrade_alone(connection)

    def _upgrade_alone(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        found = None
        with _undone_on_error(connection):
            version = _version(connection)  # again: another process may have upgraded it
            for older in range(version or VERSION, VERSION):
                connection.execute(_CHANGES[older])
            if version < VERSION:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
            if version == 0:
                found = adopt(connection, self.folders)
            elif version < VERSION:  # their folders have no records yet
                for row in connection.execute("SELECT * FROM runs").fetchall():
                    folder, record = self.folders / row["id"], record_of(row)
                    if record is not None and folder.is_dir():
                        write_record(folder, record)
            connection.execute("COMMIT")
        if found is not None and (found.count or found.unreadable):
            self._tell(f"The index of runs was rebuilt: {found}. The history of jobs is lost.")

    def _replace(self, error: Exception | None) -> bool:
        """Move a damaged index and its journals aside; True if the index behind `error` was moved."""
        try:
            with FileLock(self.path.with_name(f"{self.path.name}.lock"), timeout=10):
                if not self._is_damaged():  # another process may have moved it
                    return _is_damage(error)
                name = f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
                for suffix in ("-wal", "-shm", "-journal", ""):
                    if (file := self.path.with_name(self.path.name + suffix)).exists():
                        file.rename(self.path.with_name(name + suffix))
        except OSError:
            return False  # the data folder cannot be written
        self._tell(f"The index of runs was damaged. It is kept as {name}.")
        return True

    def _is_damaged(self, check: str = "integrity_check") -> bool:
        if not self.path.is_file():
            return self.path.exists()
        try:
            with closing(sqlite3.connect(self.path, timeout=10)) as connection:
                if connection.execute(f"PRAGMA {check}(1)").fetchone()[0] != "ok":
                    return True
                if _version(connection) != VERSION:
                    return False
                for table in ("runs", "jobs"):
                    connection.execute(f"SELECT * FROM {table}").fetchall()  # its text is read as UTF-8
                return connection.execute(_FOREIGN).fetchone() is not None
        except (sqlite3.Error, UnicodeDecodeError) as error:
            return _is_damage(error) or getattr(error, "sqlite_errorname", "") == "SQLITE_ERROR"  # e.g. no such table

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
        try:
            return self._rows(query, values)
        except IndexReplaced:
            return self._rows(query, values)

    def _rows(self, query: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        with self.connect("BEGIN DEFERRED") as connection:
            return [dict(row) for row in connection.execute(query, values)]

    def interrupt(self, job_id: str | None = None) -> None:
        """Mark live jobs whose owner has ended (or `job_id`, whoever owns it) as interrupted; their results stay."""
        if not self.exists:
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


def _is_damage(error: Exception | None) -> bool:
    if isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorname"):
        return True  # text that is not UTF-8
    named = getattr(error, "sqlite_errorname", "").startswith(_DAMAGE)
    return named or isinstance(error, IsADirectoryError | UnicodeDecodeError)


@contextmanager
def _undone_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # some errors, such as a full disk, roll back by themselves
            connection.execute("ROLLBACK")
        raise


def _encode(values: Mapping[str, Any]) -> list[Any]:
    return [json.dumps(value) if isinstance(value, Mapping) else value for value in values.values()]
