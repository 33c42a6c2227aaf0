"""Points of a study measured by several workers: the rows are those of one process, and a lost worker loses nothing."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from nirvana.errors import Cancelled, RunError
from nirvana.files import cache_folder
from nirvana.jobs.execute import execute
from nirvana.progress import Progress
from nirvana.runs import planning, step_cache
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from nirvana.runs.transfer import pack_run, unpack_run
from nirvana.studies.search_trials import read_trials
from nirvana.studies.sweep import sweep
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import FILE, read_grid, read_rows
from tests.counting import count_calls
from tests.crews import Call, CrewExecutor
from tests.reporter import Reporter
from tests.sweeps import grid_of

GRID = grid_of(("nirvana", "magnitude"), ("shared",), (0.2, 0.3), (0, 1))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def base(store: Store, small_recipe: Recipe) -> Run:
    return store.create(small_recipe.change("prune", samples=4, length=32), name="Base")


def distribute(base: Run, executor: CrewExecutor, grid: Grid = GRID) -> dict[str, Any]:
    return execute(base, "sweep", grid.to_json(), Reporter(), executor=executor)


def numbers(rows: list[Any]) -> dict[Any, Any]:
    return {row.point: (row.fingerprint, row.weights, row.sparsity, row.sizes, row.values) for row in rows}


def test_several_workers_measure_what_one_process_measures(
    base: Run, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, {planning: ("score",)})
    executor = CrewExecutor(tmp_path)
    assert distribute(base, executor) == {"points": 8, "failed": 0}
    assert calls["score"] == 4, "once a criterion and seed, although the workers share no cache"
    assert {call.worker for call in executor.crew.begun} == {0, 1, 2}
    found, children = read_rows(base), store.children(base.id)
    assert {row.run_id for row in found} == {child.id for child in children} and len(children) == 8
    assert all(child.status == "done" and child.study == base.id for child in children)
    alone = sweep(store.create(base.recipe, name="Alone"), GRID)
    assert numbers(found) == numbers(alone) and read_grid(base) == GRID
    assert not store.index.notices and not Store().index.notices, "the index knows every run"


def test_a_lost_worker_loses_no_point_and_measures_none_twice(base: Run, store: Store, tmp_path: Path) -> None:
    lost: Counter[Any] = Counter()

    def loses(call: Call) -> bool:
        """Every first preparation, and the second and fifth point at first."""
        lost[call.method, call.arguments[0]] += 1
        once = call.method == "prepare" or call.arguments[0] in (GRID.points()[1], GRID.points()[4])
        return once and lost[call.method, call.arguments[0]] == 1

    assert distribute(base, CrewExecutor(tmp_path, loses=loses)) == {"points": 8, "failed": 0}
    lines = [json.loads(line) for line in (base.folder / FILE).read_text().splitlines()]
    points = [json.dumps(line["row"]["point"]) for line in lines if "row" in line]
    assert len(points) == len(set(points)) == 8 and len(store.children(base.id)) == 8
    assert lost["measure", GRID.points()[1]] == 2 and lost["measure", GRID.points()[0]] == 1


def test_a_point_that_loses_every_worker_is_recorded_and_tried_again_by_the_next_sweep(
    base: Run, tmp_path: Path
) -> None:
    bad = GRID.points()[2]
    fatal = CrewExecutor(tmp_path, loses=lambda call: call.method == "measure" and call.arguments[0] == bad)
    assert distribute(base, fatal) == {"points": 8, "failed": 1}
    (failed,) = [row for row in read_rows(base) if row.failure]
    assert failed.point == bad and "lost 3 times" in failed.failure
    assert distribute(base, mended := CrewExecutor(tmp_path)) == {"points": 9, "failed": 1}, "the failed row stays"
    assert [call.arguments[0] for call in mended.crew.begun if call.method == "measure"] == [bad]
    assert {row.point: row.failure for row in read_rows(base)}[bad] == ""


def test_scores_that_no_worker_can_compute_leave_each_point_its_own_error(base: Run, tmp_path: Path) -> None:
    grid = grid_of(("taylor",), ("shared",), (0.3, 0.95), (0,))
    never = CrewExecutor(tmp_path, loses=lambda call: call.method == "prepare")
    assert distribute(base, never, grid) == {"points": 2, "failed": 1}
    rows = {row.point.sparsity: row for row in read_rows(base)}
    assert "95" in rows[0.95].failure and not rows[0.3].failure, "each computed the scores itself"


def test_a_stopped_sweep_goes_on_in_one_process(base: Run, store: Store, tmp_path: Path) -> None:
    class Stops(Reporter):
        def row(self, row: object) -> None:
            if len(read_rows(base)) == 3:
                raise Cancelled

    executor = CrewExecutor(tmp_path)
    with pytest.raises(Cancelled):
        execute(base, "sweep", GRID.to_json(), Stops(), executor=executor)
    kept = read_rows(base)
    assert len(kept) == 3
    rows = sweep(base, GRID)
    assert len(rows) == 8 and all(row in rows for row in kept)
    assert len(store.children(base.id)) == 8, "runs whose scores were there were continued"


def test_a_search_counts_its_trials_across_workers(base: Run, tmp_path: Path) -> None:
    asked = {"corpora": [base.recipe.calibration.corpus], "sparsity": 0.3, "minutes": 0, "trials": 7, "seed": 1}
    asked["criteria"] = ["magnitude", "flap"]
    reporter = Reporter()
    found = execute(base, "tune", asked, reporter, executor=CrewExecutor(tmp_path))
    _, trials = read_trials(base.folder)
    assert found["points"] == len(trials) == 7 and [trial.number for trial in trials] == list(range(7))
    assert len({trial.choices for trial in trials}) == 7 and not any(trial.failure for trial in trials)
    assert reporter.seen[-1].stage.startswith("7 of 7") or reporter.seen[-1].stage == "Waiting for a device"


def test_what_has_no_points_cannot_be_distributed(base: Run, tmp_path: Path) -> None:
    for task in ("run", "matrix"):
        texts = [base.recipe.calibration.corpus, "python-docs"]
        arguments = {"until": "model"} if task == "run" else {"corpora": texts}
        with pytest.raises(RunError, match="cannot be distributed") as caught:
            execute(base, task, arguments, Reporter(), executor=CrewExecutor(tmp_path))
        assert caught.value.hint


def test_a_run_travels_with_its_results(base: Run, store: Store, tmp_path: Path) -> None:
    (row,) = sweep(base, grid_of(("magnitude",), ("shared",), (0.3,), (0,)))
    run = store.open(row.run_id)
    (run.folder / "weights.safetensors").write_bytes(b"large")
    packed = pack_run(run)
    other = Store(tmp_path / "elsewhere")
    unpack_run(other, pack_run(base))
    there = unpack_run(other, packed)
    assert (there.name, there.recipe, there.study) == (run.name, run.recipe, base.id) and there.status == "done"
    assert there.report() == run.report() and there.saliency() is not None
    assert not (there.folder / "weights.safetensors").exists()
    again = unpack_run(other, (packed[0], {**packed[1], "more.json": b"{}"}))
    assert (again.folder / "more.json").exists() and [each.id for each in other.children(base.id)] == [run.id]
    assert not [path for path in (other.root / "runs").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["../escape.json", "/etc/escape.json", ".hidden.json", "a/b.json", ""])
def test_files_that_are_not_of_a_run_are_refused(base: Run, tmp_path: Path, name: str) -> None:
    run_id, files = pack_run(base)
    other = Store(tmp_path / "elsewhere")
    for packed in ((run_id, {**files, name: b"{}"}), ("../abcdefabcd", files), (run_id, {})):
        with pytest.raises(RunError, match="not the files of a run"):
            unpack_run(other, packed)
    assert not list(tmp_path.rglob("*escape*"))


def test_a_result_that_another_process_computes_is_waited_for(tmp_path: Path) -> None:
    waiting, seen = threading.Event(), list[Progress]()

    def note(progress: Progress) -> None:
        seen.append(progress)
        waiting.set()

    lock = cache_folder() / "locks" / "score-1"
    lock.parent.mkdir(parents=True, exist_ok=True)

    def other() -> None:
        """Another process, which computes until this one waits."""
        assert waiting.wait(20)
        step_cache.write_cached("score-1", b"theirs", seconds=3.0)
        held.release()

    held = FileLock(lock, thread_local=False)
    held.acquire()
    thread = threading.Thread(target=other)
    thread.start()
    found, origin = step_cache.through_cache("score-1", bytes.decode, str.encode, lambda: "mine", progress=note)
    thread.join()
    assert (found, origin) == ("theirs", {"cached": True, "seconds": 3.0}) and "Waiting" in seen[0].stage


def test_a_wait_for_another_process_can_be_cancelled(tmp_path: Path) -> None:
    def cancel(progress: Progress) -> None:
        raise Cancelled

    lock = cache_folder() / "locks" / "score-2"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock), pytest.raises(Cancelled):
        step_cache.through_cache("score-2", bytes.decode, str.encode, lambda: "mine", progress=cancel)
    assert step_cache.through_cache("score-2", bytes.decode, str.encode, lambda: "mine")[0] == "mine"
    assert not lock.exists()
