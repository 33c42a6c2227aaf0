"""The index of runs: rebuilt from the folders where it is missing or damaged, by several processes at once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import nirvana
from nirvana.errors import NirvanaError, RunError
from nirvana.files import read_json
from nirvana.runs.index import VERSION
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from tests.processes import call_in_process

RECIPE = Recipe().change("allocation", sparsity=0.35, gamma=float("inf"))
INDEX = "runs.sqlite3"


@pytest.fixture
def root(own_home: Path) -> Path:
    """Three runs, the first one pinned and renamed, the last a point of the second one's study."""
    store = Store(own_home)
    first = store.create(RECIPE, name="first")
    store.pin(first.id, True)
    store.rename(first.id, "renamed")
    study = store.create(Recipe(), name="study")
    store.set_recipe(study.id, RECIPE)
    store.create(Recipe(), name="point", study=study)
    with store.index.connect() as connection:  # the index is one file then
        connection.execute("SELECT 1")
    with closing(sqlite3.connect(own_home / INDEX)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return own_home


def listed(store: Store) -> list[tuple[Any, ...]]:
    """All that the index knows of each run and point."""
    runs = [run for each in store.runs() for run in (each, *store.children(each.id))]
    return [(run.id, run.name, run.recipe, run.created, run.pinned, run.study) for run in runs]


def kept(root: Path) -> list[Path]:
    """Damaged indices, without their journals."""
    return [path for path in root.glob(f"{INDEX}.damaged-*") if not path.name.endswith(("-wal", "-shm"))]


def garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database, whatever its name says" * 100)


def header_alone(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def last_page_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def pages_overwritten(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_text("kept")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def without_tables(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def no_text(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"python-docs", b"python\xffdocs"))


def no_numbers(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE runs SET created = 'yesterday'")
        connection.commit()


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing_with_journals(path: Path) -> None:
    path.unlink()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).write_bytes(b"left over" * 1000)


DAMAGE = [garbage, header_alone, half, pages_overwritten, folder, pipe, without_tables, no_text, no_numbers]
ABSENCE = [missing, empty, missing_with_journals]


@pytest.mark.parametrize("damage", [*DAMAGE, *ABSENCE])
def test_a_new_index_lists_the_runs_of_the_folders(root: Path, damage: Callable[[Path], None]) -> None:
    before = listed(Store(root))
    damage(root / INDEX)
    store = Store(root)
    assert listed(store) == before and [row[1] for row in before] == ["renamed", "study", "point"]
    assert len(kept(root)) == (damage in DAMAGE)
    told = " ".join(store.index.notices)
    assert "rebuilt: 3 runs found in their folders. The history of jobs is lost." in told
    assert all(path.name in told for path in kept(root))
    again = Store(root)
    assert listed(again) == before and again.index.notices == []


def test_a_cut_that_loses_nothing_is_no_damage(root: Path) -> None:
    before = listed(Store(root))
    last_page_cut(root / INDEX)
    assert listed(Store(root)) == before


def test_the_damaged_file_is_kept_byte_for_byte(root: Path) -> None:
    garbage(root / INDEX)
    content = (root / INDEX).read_bytes()
    Store(root)
    (file,) = kept(root)
    assert file.read_bytes() == content


@pytest.mark.parametrize("damage", [garbage, pages_overwritten, missing, folder])
def test_a_store_that_is_open_finds_its_runs_again(root: Path, damage: Callable[[Path], None]) -> None:
    store = Store(root)
    before = listed(store)
    damage(root / INDEX)
    assert listed(store) == before
    damage(root / INDEX)
    with contextlib.suppress(RunError):  # where the damage is met within the transaction
        store.rename(before[0][0], "again")
    store.rename(before[0][0], "again")
    assert store.runs()[0].name == "again" and len(store.runs()) == 2


def test_the_command_line_lists_the_runs_and_warns(root: Path) -> None:
    garbage(root / INDEX)
    line = [sys.executable, "-m", "nirvana", "runs", "list", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(nirvana.__file__).parents[1], check=True)
    assert [row["name"] for row in json.loads(done.stdout)] == ["renamed", "study"]
    first, second = done.stderr.splitlines()
    assert first == f"The index of runs was damaged. It is kept as {kept(root)[0].name}."
    assert second == "The index of runs was rebuilt: 3 runs found in their folders. The history of jobs is lost."


def test_an_index_of_a_newer_version_is_left_alone(root: Path) -> None:
    with closing(sqlite3.connect(root / INDEX)) as connection:
        connection.execute("PRAGMA user_version = 99")
    content = (root / INDEX).read_bytes()
    with pytest.raises(RunError, match="newer version"):
        Store(root).runs()
    assert (root / INDEX).read_bytes() == content and not list(root.glob("*damaged*"))


def test_runs_of_earlier_versions_get_their_record(root: Path) -> None:
    before = listed(Store(root))
    for record in root.glob("runs/*/run.json"):
        record.unlink()
    vanished = before[2][0]
    shutil.rmtree(root / "runs" / vanished)
    with closing(sqlite3.connect(root / INDEX)) as connection:
        connection.execute("ALTER TABLE runs ADD COLUMN updated REAL NOT NULL DEFAULT 0")
        connection.execute("ALTER TABLE runs DROP COLUMN visitor")
        connection.execute("PRAGMA user_version = 2")
        connection.commit()
    store = Store(root)
    assert listed(store) == before and store.index.notices == []
    assert Recipe.from_json(read_json(root / "runs" / before[0][0] / "run.json")["recipe"]) == RECIPE
    assert not (root / "runs" / vanished).exists()
    (root / INDEX).unlink()
    assert listed(Store(root)) == before[:2]


def test_an_older_copy_of_the_index_is_completed(root: Path) -> None:
    copy = (root / INDEX).read_bytes()
    late = Store(root).create(Recipe(), name="late")
    for file in root.glob(f"{INDEX}*"):
        file.unlink()
    (root / INDEX).write_bytes(copy)
    store = Store(root)
    assert {run.name for run in store.runs()} == {"renamed", "study", "late"} and store.open(late.id).recipe == Recipe()
    assert store.index.notices == ["The index of runs was incomplete. Added: 1 run found in their folders."]
    assert Store(root).index.notices == []


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"name": 3}', b"\xff", b'{"name": "a", "recipe": [], "created": 0}', b"[" * 100_000],
)
def test_a_folder_without_a_readable_record_is_named_and_left(root: Path, content: bytes) -> None:
    store = Store(root)
    first = store.runs()[0]
    (first.folder / "run.json").write_bytes(content)
    (first.folder / "model.info.json").write_text("{}")
    (root / INDEX).unlink()
    store = Store(root)
    assert [run.name for run in store.runs()] == ["study"]
    assert first.id in store.index.notices[0] and (first.folder / "run.json").read_bytes() == content


def test_a_foreign_record_is_made_fit(root: Path) -> None:
    store = Store(root)
    first, study = store.runs()
    record = read_json(first.folder / "run.json")
    (first.folder / "run.json").write_text(json.dumps(record | {"name": "a\n\x07b" * 200, "study": "zzzzzzzzzzzz"}))
    (study.folder / "run.json").write_text(json.dumps(record | {"name": " ", "recipe": {"model": {"colour": "blue"}}}))
    (root / INDEX).unlink()
    store = Store(root)
    assert [(run.id, run.name[:7], len(run.name)) for run in store.runs()] == [(first.id, "a ba ba", 120)]
    assert [run.name for run in store.children(study.id)] == ["point"]
    with pytest.raises(RunError, match="colour"):
        store.open(study.id)


def test_points_without_their_study_are_listed(root: Path) -> None:
    study = Store(root).runs()[1]
    shutil.rmtree(study.folder)
    (root / INDEX).unlink()
    assert {run.name for run in Store(root).runs()} == {"renamed", "point"}


def test_a_deleted_run_does_not_come_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(root)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # e.g. files that are open elsewhere
    store.delete(store.runs()[1].id)
    (root / INDEX).unlink()
    assert [run.name for run in Store(root).runs()] == ["renamed"]


def test_a_run_that_cannot_be_deleted_stays_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(root)
    before = listed(store)
    study = store.runs()[1]
    (point,) = store.children(study.id)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == point.id:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(RunError, match="cannot be deleted"):
        store.delete(study.id)
    assert listed(store) == before and study.folder.is_dir() and point.folder.is_dir()


@pytest.mark.parametrize("change", ["create", "rename", "pin", "set_recipe"])
def test_on_a_full_disk_index_and_record_stay_alike(root: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    store = Store(root)
    before = listed(store)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    run_id = before[0][0]
    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: store.create(Recipe()),
        "rename": lambda: store.rename(run_id, "x"),
        "pin": lambda: store.pin(run_id, False),
        "set_recipe": lambda: store.set_recipe(run_id, Recipe()),
    }
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(NirvanaError, match="No space left"):
            calls[change]()
    assert listed(store) == before
    (root / INDEX).unlink()
    assert listed(Store(root)) == before


def test_a_full_disk_loses_no_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite undoes the transaction itself; the error is still that of the disk."""
    store = Store(root)
    before = listed(store)

    def fill() -> None:
        with store.index.connect() as connection:
            connection.execute("PRAGMA max_page_count = 1")
            for number in range(500):
                values = (f"{number:012}", "x" * 4000, "{}", 0.0)
                connection.execute("INSERT INTO runs (id, name, recipe, created) VALUES (?, ?, ?, ?)", values)

    with pytest.raises(RunError, match="full") as caught:
        fill()
    assert "disk space" in caught.value.hint and listed(store) == before and not list(root.glob("*damaged*"))


def test_where_nothing_can_be_moved_the_error_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage(root / INDEX)
    content = (root / INDEX).read_bytes()

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(RunError, match="not a database") as caught:
        Store(root)
    assert "permissions" in caught.value.hint and (root / INDEX).read_bytes() == content


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    store = Store(tmp_path / "file")
    assert store.runs() == []
    with pytest.raises(RunError, match="cannot be created"):
        store.create(Recipe())


def open_at_once(places: list[str]) -> list[tuple[list[str], list[str]]]:
    """One of several processes that find the same damage in each place once there is a file `start`."""
    found = []
    for place in map(Path, places):
        (place / f"ready-{os.getpid()}").touch()
        while not (place / "start").exists():
            time.sleep(0.001)
        store = Store(place / "data")
        store.create(Recipe(), name="from here")
        found.append((sorted(run.name for run in store.runs() if run.name != "from here"), store.index.notices))
    return found


def test_processes_that_open_at_once_make_one_index(root: Path, tmp_path: Path) -> None:
    places = {damage: tmp_path / damage.__name__ for damage in (garbage, missing, folder, pages_overwritten)}
    for damage, place in places.items():
        shutil.copytree(root, place / "data")
        damage(place / "data" / INDEX)
    openers = [call_in_process(open_at_once, [str(place) for place in places.values()]) for _ in range(4)]
    for place in places.values():
        while len(list(place.glob("ready-*"))) < len(openers):
            assert all(opener.poll() is None for opener in openers)
            time.sleep(0.01)
        (place / "start").touch()
    results = [json.loads(opener.communicate(timeout=60)[0]) for opener in openers]
    for place, opened in zip(places.values(), zip(*results, strict=True), strict=True):
        assert [names for names, _ in opened] == [["renamed", "study"]] * 4, place
        told = [sentence for _, notices in opened for sentence in notices]
        assert sum("rebuilt" in sentence for sentence in told) == 1, place
        assert len(kept(place / "data")) == sum("is kept as" in sentence for sentence in told), place
        assert len(Store(place / "data").runs()) == 2 + 4, place


def test_no_damage_loses_a_run(root: Path) -> None:
    """Bytes overwritten, cut away, zeroed and inserted anywhere, again and again."""
    before, content, draw = listed(Store(root)), (root / INDEX).read_bytes(), random.Random(0)
    for _ in range(60):
        for file in root.glob(f"{INDEX}*"):
            file.unlink()
        data, at = bytearray(content), draw.randrange(len(content))
        kind = draw.choice(["bytes", "block", "cut", "zeros", "more"])
        if kind == "bytes":
            for place in draw.sample(range(len(data)), 20):
                data[place] = draw.randrange(256)
        elif kind == "cut":
            del data[at:]
        else:
            size = 0 if kind == "more" else 512
            data[at : at + size] = bytes(512) if kind == "zeros" else draw.randbytes(512)
        (root / INDEX).write_bytes(data)
        store = Store(root)
        store.pin(before[0][0], True)
        assert [row[0] for row in listed(store)] == [row[0] for row in before], kind
        assert [row[2] for row in listed(store)] == [row[2] for row in before], kind
