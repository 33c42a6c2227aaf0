"""Runs on disk: an index, and a folder of results each. Safe for several processes; does not import torch."""

from __future__ import annotations

import copy
import json
import logging
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from nirvana.errors import NirvanaError, RunError
from nirvana.files import data_folder, parse_json
from nirvana.runs.describe import default_name
from nirvana.runs.folder import StepFolder
from nirvana.runs.identity import ID, new_id
from nirvana.runs.index import LIVE, Index
from nirvana.runs.recipe import STEPS, EvaluationChoice, Recipe
from nirvana.runs.record import NAME_LENGTH, Record, one_line, read_record, record_of, write_record
from nirvana.runs.run import Run

__all__ = ["Run", "Store", "write_example"]

EXAMPLE = "example"
EXAMPLE_FOLDER = Path(__file__).parent / "example"
_MINE = "SELECT * FROM runs WHERE visitor IS coalesce(?, visitor)"  # all for None
log = logging.getLogger(__name__)


class Store:
    """All runs under `root` (default: the user's data folder) and the packaged example, opened read-only.

    Attributes:
        visitor: whose runs these are; None for the runs of all. See `of`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = data_folder() if root is None else Path(root)
        self.visitor: str | None = None
        self.index = Index(self.root / "runs.sqlite3")
        self.index.verify()
        self.index.interrupt()
        self.index.adopt()

    def of(self, visitor: str) -> Store:
        """The runs of one visitor of a public demo, on the same index: what it creates belongs to the visitor, and a
        run of anyone else does not exist in it. The example belongs to all.
        """
        theirs = copy.copy(self)
        theirs.visitor = visitor
        return theirs

    def create(self, recipe: Recipe, *, name: str = "", parent: Run | None = None, study: Run | None = None) -> Run:
        """Create a run; results of `parent` that are current for `recipe` are copied.

        With `study` it is a point of that run's study, listed and deleted with that run only, and belongs to the same
        visitor.

        Raises:
            RunError: the name is unusable, the index cannot be written, or `study` is the example or itself a point.
            NirvanaError: the disk is full.
        """
        if study is not None:
            self._check_own(study.id)
            if study.study:
                raise RunError("This run is a point of another run's study.", "Start from that one.")
        now = time.time()
        label = _clean_name(name or default_name(recipe)[:NAME_LENGTH])
        while True:
            run_id = new_id()
            folder = self._folder(run_id)
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise RunError(f"A run cannot be created: {error}.", f"Check {self.root}.") from error
        belongs = study.id if study is not None else ""
        visitor = study.visitor if study is not None else self.visitor or ""
        run = Run(run_id, label, recipe, now, False, folder, self.index, belongs, visitor)
        try:
            for step in STEPS:
                if parent is not None and parent.step_state(step, recipe) == "done":
                    run.steps.copy(step, parent.steps)
            if parent is not None:
                run.steps.copy_attachments(parent.steps)
            with self.index.connect() as connection:
                values = run_id, label, json.dumps(recipe.to_json()), now, belongs or None, visitor
                connection.execute(
                    "INSERT INTO runs (id, name, recipe, created, study, visitor) VALUES (?, ?, ?, ?, ?, ?)", values
                )
                self._keep(connection, run_id)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return run

    def open(self, run_id: str) -> Run:
        """A run by id; "example" is the packaged one.

        Raises:
            RunError: there is no such run among these, or its recipe cannot be read.
        """
        return _open_example() if run_id == EXAMPLE else self._run(self._row(run_id))

    def runs(self) -> list[Run]:
        """All runs, pinned ones first, then the newest; not the example, nor the points of studies."""
        return self._select("study IS NULL ORDER BY pinned DESC, created DESC, id DESC")

    def children(self, run_id: str) -> list[Run]:
        """The points of a run's study, oldest first."""
        return self._select("study = ? ORDER BY created, id", run_id)

    def rename(self, run_id: str, name: str) -> None:
        """Give a run another name.

        Raises:
            RunError: the run is unknown or the example, or the name is unusable.
        """
        self._change(run_id, name=_clean_name(name))

    def pin(self, run_id: str, pinned: bool) -> None:
        """Pin or unpin a run at the top of the list.

        Raises:
            RunError: the run is unknown or the example.
        """
        self._change(run_id, pinned=int(pinned))

    def set_recipe(self, run_id: str, recipe: Recipe) -> Run:
        """Change a run's recipe. Results stay; those that no longer fit are stale until computed again.

        Raises:
            RunError: the run is unknown or the example.
        """
        self._change(run_id, recipe=json.dumps(recipe.to_json()))
        return self.open(run_id)

    def measured_like(self, run: Run, evaluation: EvaluationChoice, among: Iterable[Run]) -> Run:
        """A run with the recipe of `run` and another evaluation: one of `among` if it fits, else a new run with the
        current results of `run`, which is unchanged.

        Raises:
            NirvanaError: see `create`.
        """
        recipe = run.recipe.change("evaluation", **vars(evaluation))
        found = next((each for each in among if each.recipe == recipe), None)
        return found or self.create(recipe, name=f"{run.name[: NAME_LENGTH - 20]}, measured again", parent=run)

    def delete(self, run_id: str) -> None:
        """Remove a run and its folder, and with it the points of its study.

        Raises:
            RunError: the run is unknown or the example, or a job of it or of one of its points is live.
        """
        self._check_own(run_id)
        self.index.interrupt()
        with self.index.connect() as connection:
            query = (
                "SELECT COUNT(*) FROM jobs JOIN runs ON runs.id = jobs.run_id "
                "WHERE (runs.id = ? OR runs.study = ?) AND status IN (?, ?)"
            )
            if connection.execute(query, (run_id, run_id, *LIVE)).fetchone()[0]:
                raise RunError("This run is being computed.", "Cancel its job first, then delete it.")
            points = [row["id"] for row in connection.execute("SELECT id FROM runs WHERE study = ?", (run_id,))]
            if not connection.execute("DELETE FROM runs WHERE id = ?", (run_id,)).rowcount:  # cascades to its points
                raise _missing()
            hidden = self._hide([run_id, *points])
        for folder in hidden:
            shutil.rmtree(folder, ignore_errors=True)

    def _hide(self, run_ids: Sequence[str]) -> list[Path]:
        """Rename folders before their many files are removed, since a folder under its name would be listed again.

        Raises:
            RunError: one cannot be renamed; then all keep their names.
        """
        hidden: dict[Path, Path] = {}
        for folder in map(self._folder, run_ids):
            target = folder.with_name(f".deleted-{folder.name}-{secrets.token_hex(3)}")
            try:
                hidden[folder.rename(target)] = folder
            except FileNotFoundError:
                continue
            except OSError as error:
                for moved, place in hidden.items():
                    moved.rename(place)
                raise RunError(f"{folder} cannot be deleted: {error}.", "Close what uses it, and try again.") from error
        return list(hidden)

    def disk_use(self, run_id: str) -> int:
        """Bytes of a run's folder, and of those of its study's points."""
        return sum(run.steps.size() for run in (self.open(run_id), *self.children(run_id)))

    def _select(self, where: str, *values: Any) -> list[Run]:
        """Runs of the index with readable recipes."""
        runs = []
        if self.index.exists:
            for row in self.index.rows(f"{_MINE} AND {where}", self.visitor, *values):
                try:
                    runs.append(self._run(row))
                except RunError as error:
                    log.warning("Run %s is left out: %s", row["id"], error)
        return runs

    def _row(self, run_id: str) -> dict[str, Any]:
        rows = []
        if ID.fullmatch(str(run_id)):
            rows = self.index.rows(f"{_MINE} AND id = ?", self.visitor, run_id)
        if not rows:
            raise _missing()
        return rows[0]

    def _run(self, row: dict[str, Any]) -> Run:
        created, pinned, folder = float(row["created"]), bool(row["pinned"]), self._folder(row["id"])
        try:
            recipe = _read_recipe(row["recipe"])
        except (ValueError, NirvanaError) as error:
            record = read_record(folder)  # equal, unless the index is damaged
            try:
                recipe = Recipe.from_json(record and record.recipe)
            except NirvanaError:
                raise RunError(f"The recipe of this run cannot be read: {error}", "Delete the run.") from error
        study, visitor = row["study"] or "", row["visitor"]
        return Run(row["id"], row["name"], recipe, created, pinned, folder, self.index, study, visitor)

    def _folder(self, run_id: str) -> Path:
        return self.root / "runs" / run_id

    def _change(self, run_id: str, **values: Any) -> None:
        self._check_own(run_id)
        names = ", ".join(f"{name} = ?" for name in values)
        with self.index.connect() as connection:
            found = connection.execute(f"UPDATE runs SET {names} WHERE id = ?", (*values.values(), run_id))
            if not found.rowcount:
                raise _missing()
            self._keep(connection, run_id)

    def _keep(self, connection: sqlite3.Connection, run_id: str) -> None:
        """Write the record of a run from its row; on failure the index is unchanged."""
        record = record_of(connection.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone())
        if record is not None:
            write_record(self._folder(run_id), record)

    def _check_own(self, run_id: str) -> None:
        if run_id == EXAMPLE:
            raise RunError("The example run cannot be changed.", "Start a run of your own from it.")
        if not ID.fullmatch(str(run_id)):
            raise _missing()
        if self.visitor is not None:
            self._row(run_id)


def _missing() -> RunError:
    """The error for a run that does not exist, and for one of another visitor."""
    return RunError("There is no such run.", "It may have been deleted; choose one on the Runs page.")


def write_example(run: Run, folder: Path = EXAMPLE_FOLDER) -> None:
    """Write the results of `run` to `folder` in the layout that `Store.open("example")` reads."""
    shutil.rmtree(folder, ignore_errors=True)
    target = StepFolder(folder)
    for step in STEPS:
        target.copy(step, run.steps, weights=False)
    target.copy_attachments(run.steps)
    write_record(folder, Record(name=run.name, recipe=run.recipe.to_json(), created=run.created))


def _open_example() -> Run:
    record = read_record(EXAMPLE_FOLDER) or Record(name="Example", recipe={}, created=0.0)
    try:
        recipe = _read_recipe(json.dumps(record.recipe))
    except NirvanaError as error:
        log.warning("The recipe of the example cannot be read: %s", error)
        recipe = Recipe()
    return Run(EXAMPLE, record.name, recipe, record.created, False, EXAMPLE_FOLDER, None)


@lru_cache(maxsize=1024)
def _read_recipe(text: str) -> Recipe:
    return Recipe.from_json(parse_json(text))


def _clean_name(name: str) -> str:
    """One line without control characters.

    Raises:
        RunError: it is empty or too long.
    """
    clean = one_line(name)
    if not 0 < len(clean) <= NAME_LENGTH:
        raise RunError(f"A run's name has 1 to {NAME_LENGTH} characters.", "Give it a short name.")
    return clean
