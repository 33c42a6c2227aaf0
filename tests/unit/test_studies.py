"""Runs that are points of another run's study: where they are listed, and what goes with what."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nirvana.errors import RunError
from nirvana.runs.index import VERSION
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from tests.unit.test_store import fill

FIRST_SCHEMA = """
CREATE TABLE runs (id TEXT PRIMARY KEY, name TEXT NOT NULL, recipe TEXT NOT NULL, created REAL NOT NULL,
    updated REAL NOT NULL, pinned INTEGER NOT NULL DEFAULT 0);
CREATE TABLE jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE, task TEXT NOT NULL, until TEXT NOT NULL,
    arguments TEXT NOT NULL, device TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, started REAL,
    finished REAL, error TEXT, result TEXT, owner_pid INTEGER NOT NULL, owner_started REAL NOT NULL);
INSERT INTO runs VALUES ('0123456789ab', 'Old', '{}', 1.0, 1.0, 0);
PRAGMA user_version = 1;
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def add_live_job(store: Store, run_id: str) -> None:
    values = {"task": "run", "until": "evaluate", "arguments": {}, "device": "cpu", "status": "running", "created": 1.0}
    store.index.insert("jobs", id=f"job-{run_id}", run_id=run_id, owner_pid=1, owner_started=0.0, **values)


def test_points_are_listed_with_their_run_only(store: Store) -> None:
    base, other = store.create(Recipe(), name="Base"), store.create(Recipe(), name="Other")
    points = [store.create(Recipe(), name=f"Point {number}", study=base) for number in range(2)]
    assert [run.name for run in store.runs()] == ["Other", "Base"]
    assert [run.name for run in store.children(base.id)] == ["Point 0", "Point 1"] and not store.children(other.id)
    opened = store.open(points[0].id)
    assert opened.study == base.id and not store.open(base.id).study
    fill(opened)
    assert opened.status == "done" and opened.steps.size() > points[1].steps.size()
    assert store.disk_use(base.id) == sum(run.steps.size() for run in (base, *points))


def test_points_go_with_their_run(store: Store) -> None:
    base, other = store.create(Recipe()), store.create(Recipe())
    point = store.create(Recipe(), study=base)
    kept = store.create(Recipe(), study=other)
    store.delete(base.id)
    assert {path.name for path in (store.root / "runs").iterdir()} == {other.id, kept.id}
    with pytest.raises(RunError, match="no such run"):
        store.open(point.id)
    assert [run.id for run in store.children(other.id)] == [kept.id]


def test_a_point_can_be_deleted_alone(store: Store) -> None:
    base = store.create(Recipe())
    point = store.create(Recipe(), study=base)
    store.delete(point.id)
    assert store.children(base.id) == [] and store.open(base.id).id == base.id


def test_nothing_goes_while_a_point_is_computed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nirvana.runs.index.is_alive", lambda *_: True)
    base = store.create(Recipe())
    point = store.create(Recipe(), study=base)
    add_live_job(store, point.id)
    with pytest.raises(RunError, match="being computed"):
        store.delete(base.id)
    assert store.open(point.id).folder.is_dir()


def test_studies_do_not_nest(store: Store) -> None:
    base = store.create(Recipe())
    point = store.create(Recipe(), study=base)
    with pytest.raises(RunError, match="point of another"):
        store.create(Recipe(), study=point)
    with pytest.raises(RunError, match="example"):
        store.create(Recipe(), study=store.open("example"))


def test_an_index_made_before_there_were_studies_is_brought_up_to_date(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    with closing(sqlite3.connect(root / "runs.sqlite3")) as connection:
        connection.executescript(FIRST_SCHEMA)
    store = Store(root)
    old = store.open("0123456789ab")
    assert old.name == "Old" and old.study == "" and [run.id for run in store.runs()] == [old.id]
    point = store.create(Recipe(), study=old)
    assert [run.id for run in Store(root).children(old.id)] == [point.id]
    with store.index.connect() as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == VERSION
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
