"""`run.json` in a run's folder: the index's data of the run, from which an index can be rebuilt."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nirvana.errors import NirvanaError
from nirvana.files import parse_json, read_json, write_json
from nirvana.runs.identity import ID
from nirvana.runs.recipe import Recipe

FILE = "run.json"
NAME_LENGTH = 120
log = logging.getLogger(__name__)


class Record(BaseModel):
    """A run without its results.

    Attributes:
        study: id of the run with the study of which this is a point, or empty.
        visitor: who made it in a public demo, see `Store.of`; empty elsewhere.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    recipe: dict[str, Any]
    created: float
    pinned: bool = False
    study: str = ""
    visitor: str = ""


def one_line(name: str) -> str:
    """`name` without control characters and repeated spaces."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())


def record_of(row: Mapping[str, Any]) -> Record | None:
    """The record of a row of the index; None, with a log entry, where its recipe cannot be read, so that a damaged row
    does not replace a good record.
    """
    try:
        recipe, pinned, study = parse_json(row["recipe"]), bool(row["pinned"]), row["study"] or ""
        Recipe.from_json(recipe)
        return Record(
            name=row["name"],
            recipe=recipe,
            created=row["created"],
            pinned=pinned,
            study=study,
            visitor=row["visitor"],
        )
    except (ValueError, NirvanaError) as error:
        log.warning("Run %s has no recipe that can be read: %s", row["id"], error)
        return None


def write_record(folder: Path, record: Record) -> None:
    """Write or replace `run.json`.

    Raises:
        NirvanaError: the disk is full or the folder cannot be written.
    """
    write_json(folder / FILE, record.model_dump())


def read_record(folder: Path) -> Record | None:
    """The record in a folder; None where it is missing or, with a log entry, cannot be read."""
    try:
        return Record.model_validate(read_json(folder / FILE))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read: %s", folder / FILE, error)
        return None


@dataclass(frozen=True)
class Adopted:
    """Number of runs added to the index, and folders with results but without a readable record."""

    count: int
    unreadable: tuple[str, ...]

    def __str__(self) -> str:
        left = f"; no readable {FILE} in {', '.join(self.unreadable)}" if self.unreadable else ""
        return f"{self.count} run{'' if self.count == 1 else 's'} found in their folders{left}"


def unlisted(folders: Path, known: set[str]) -> Iterator[Path]:
    """Folders of runs whose ids are not in `known`."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folders) as entries:
        names = sorted(entry.name for entry in entries if entry.name not in known)
        yield from (folders / name for name in names if ID.fullmatch(name))


def adopt(connection: sqlite3.Connection, folders: Path) -> Adopted:
    """Add runs with a folder and a record to the index. A point whose study is missing is added as a separate run."""
    known = {row[0] for row in connection.execute("SELECT id FROM runs")}
    records = {}
    unreadable = []
    for folder in unlisted(folders, known):
        record = read_record(folder)
        if record is not None:
            records[folder.name] = record
        elif any(folder.glob("*.info.json")):
            unreadable.append(folder.name)
    for run_id, record in sorted(records.items(), key=lambda item: bool(item[1].study)):  # studies before their points
        study = record.study if record.study in known else None
        name = one_line(record.name)[:NAME_LENGTH] or run_id
        values = run_id, name, json.dumps(record.recipe), record.created, record.pinned, study, record.visitor
        connection.execute(
            "INSERT INTO runs (id, name, recipe, created, pinned, study, visitor) VALUES (?, ?, ?, ?, ?, ?, ?)", values
        )
        known.add(run_id)
    return Adopted(len(records), tuple(unreadable))
