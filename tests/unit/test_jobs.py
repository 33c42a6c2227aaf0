"""Jobs on real worker processes, with small tasks that end well, end badly, or do not want to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nirvana.errors import NirvanaError, PlanError, RunError
from nirvana.jobs import queue as jobs_module
from nirvana.jobs import registry
from nirvana.jobs.lane import IDLE_MINUTES, idle_seconds
from nirvana.jobs.queue import Job, JobManager
from nirvana.models.devices import devices
from nirvana.out_of_memory import kills
from nirvana.runs.recipe import ModelChoice, Recipe
from nirvana.runs.results import PruneSummary
from nirvana.runs.store import Run, Store
from tests.processes import heed_interrupts, workers
from tests.unit import job_worker

WORKER = (sys.executable, str(Path(job_worker.__file__)))
ROOT = Path(job_worker.__file__).parents[2]
LONG = 180.0  # seconds that no test should come near; a hang fails instead of stopping the suite


def wait_until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("It did not happen.")


def finished(manager: JobManager, job: Job) -> Job:
    wait_until(lambda: not manager.job(job.id).live)
    return manager.job(job.id)


def running(manager: JobManager, job: Job) -> Job:
    wait_until(lambda: manager.job(job.id).step or not manager.job(job.id).live)
    return manager.job(job.id)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def unloaded(manager: JobManager) -> bool:
    try:
        manager.unload()
    except RunError:  # the lane is not idle yet
        return False
    return True


@pytest.fixture
def run(store: Store) -> Run:
    return store.create(Recipe(model=ModelChoice(device="cpu")))


@pytest.fixture
def manager(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobManager]:
    monkeypatch.setattr(registry, "TASKS", {**registry.TASKS, **job_worker.TASKS})
    manager = JobManager(store, worker=WORKER)
    yield manager
    manager.close()


def test_the_real_worker_runs_exports_and_continues(store: Store, tiny_folder: Path, sample_text: Path) -> None:
    recipe = (
        Recipe()
        .change("model", name=str(tiny_folder), device="cpu")
        .change("calibration", corpus=str(sample_text), candidates=2, samples=4, length=32)
        .change("calibration", probe_samples=6, probe_length=16)
        .change("allocation", sparsity=0.3, multiple_of=4)
        .change("evaluation", corpora=(str(sample_text),), window=64, max_tokens=1024)
    )
    run = store.create(recipe)
    manager = JobManager(store)
    try:
        job = finished(manager, manager.submit(run.id, until="prune"))
        assert job.status == "done" and run.step_state("prune") == "done" and run.status == "partial"
        assert any("saliency" in line for line in manager.log(job.id))
        resident = manager.resident()
        assert {entry["device"] for entry in resident} == {"cpu"} and all(entry["bytes"] > 0 for entry in resident)
        archive = finished(manager, manager.submit(run.id, task="export"))
        spoken = finished(manager, manager.submit(run.id, task="continue", prompt="The river", max_new_tokens=4))
        measured = finished(manager, manager.submit(run.id))
        assert [entry.status for entry in (archive, spoken, measured)] == ["done"] * 3
        assert archive.result is not None and Path(archive.result["path"]).stat().st_size == archive.result["bytes"]
        assert spoken.result == run.continuations()[0].to_json() and run.status == "done"
        refused = store.create(recipe.change("allocation", sparsity=0.99), parent=run)
        failed = finished(manager, manager.submit(refused.id))
        assert failed.status == "failed" and failed.error is not None and "at most" in failed.error["message"]
        assert refused.step_state("saliency") == "done" and refused.status == "failed"
    finally:
        manager.close()


def test_text_is_shown_while_it_is_written(manager: JobManager, run: Run) -> None:
    job = manager.submit(run.id, task="write")
    wait_until(lambda: manager.job(job.id).text)
    assert manager.job(job.id).text == "Once upon"
    manager.cancel(job.id)
    assert finished(manager, job).text == ""


def test_no_process_before_the_first_job_and_one_for_all_that_follow(manager: JobManager, run: Run) -> None:
    assert workers(command=WORKER[-1]) == []
    first, second = manager.submit(run.id, task="work"), manager.submit(run.id, task="work")
    results = [finished(manager, job).result for job in (first, second)]
    assert results[0] is not None and results[1] is not None
    assert results[0]["pid"] == results[1]["pid"] != os.getpid()
    assert results[0]["run"] == run.id
    job = manager.job(second.id)
    assert job.status == "done" and job.fraction == 1 and job.eta is None and job.finished is not None
    assert [entry.id for entry in manager.jobs(run.id)] == [second.id, first.id]


def test_progress_of_a_running_job(manager: JobManager, store: Store, run: Run) -> None:
    job = running(manager, manager.submit(run.id, task="work", seconds=600))
    wait_until(lambda: manager.job(job.id).total)
    job = manager.job(job.id)
    assert (job.status, job.position, job.step, job.step_number, job.steps) == ("running", 0, "calibration", 2, 2)
    assert (job.stage, job.done, job.total, job.fraction) == ("Working", 1, 4, 0.25)
    assert job.elapsed > 0
    live = manager.live(run.id)
    assert live is not None and live.id == job.id
    assert run.status == "running" and store.runs()[0].status == "running"


def test_queue_positions_are_visible_and_close_up(manager: JobManager, store: Store, run: Run) -> None:
    first = manager.submit(run.id, task="work", seconds=600)
    running(manager, first)
    others = [manager.submit(store.create(run.recipe).id, task="work") for _ in range(3)]
    assert [manager.job(job.id).position for job in others] == [1, 2, 3]
    assert manager.job(others[1].id).status == "queued"
    manager.cancel(others[0].id)
    assert manager.job(others[0].id).status == "cancelled"
    assert [manager.job(job.id).position for job in others[1:]] == [1, 2]
    manager.cancel(first.id)
    assert [finished(manager, job).status for job in others[1:]] == ["done", "done"]
    assert manager.job(first.id).status == "cancelled"


def test_cancel_asks_first_and_keeps_the_worker(manager: JobManager, run: Run) -> None:
    before = finished(manager, manager.submit(run.id, task="work")).result
    job = running(manager, manager.submit(run.id, task="work", seconds=600))
    manager.cancel(job.id)
    job = finished(manager, job)
    assert job.status == "cancelled" and job.error is not None and "kept" in job.error["hint"]
    after = finished(manager, manager.submit(run.id, task="work")).result
    assert before is not None and after is not None and before["pid"] == after["pid"]
    failure = run.failure()
    assert failure is None, "a later success clears it"


def test_cancel_kills_a_task_that_does_not_listen(manager: JobManager, run: Run) -> None:
    before = finished(manager, manager.submit(run.id, task="work")).result
    job = manager.submit(run.id, task="deaf")
    wait_until((run.folder / "begun").exists)
    start = time.monotonic()
    manager.cancel(job.id)
    job = finished(manager, job)
    assert job.status == "cancelled" and time.monotonic() - start < 20
    assert not list(run.folder.glob(".*")), "what was half written is gone"
    after = finished(manager, manager.submit(run.id, task="work")).result
    assert before is not None and after is not None and before["pid"] != after["pid"]


def test_a_paused_recovery_has_time_to_save_its_state(manager: JobManager, run: Run) -> None:
    job = running(manager, manager.submit(run.id, task="train"))
    wait_until(lambda: manager.job(job.id).step == "recover")
    manager.cancel(job.id)
    assert finished(manager, job).status == "cancelled" and (run.folder / "saved").exists()


def test_cancelling_what_has_ended_changes_nothing(manager: JobManager, run: Run) -> None:
    job = finished(manager, manager.submit(run.id, task="work"))
    manager.cancel(job.id)
    assert manager.job(job.id) == job
    with pytest.raises(RunError, match="no such job"):
        manager.cancel("nonsense")


@pytest.mark.parametrize(
    ("task", "step", "message", "hint"),
    [
        ("die", "saliency", "killed by another program or by hand", "Try again"),
        ("leave", "", "exit code 3", "log"),
        ("starve", "saliency", "Memory ran out", "fewer or shorter samples"),
        ("refuse", "calibration", "The text is too short.", "Give more."),
        ("break", "", "ZeroDivisionError", "report it"),
    ],
)
def test_a_failure_is_explained_and_the_next_job_runs(
    manager: JobManager, run: Run, task: str, step: str, message: str, hint: str
) -> None:
    job = finished(manager, manager.submit(run.id, task=task))
    assert job.status == "failed" and job.error is not None
    assert job.error["step"] == step and message in job.error["message"] and hint in job.error["hint"]
    failure = run.failure()
    assert failure is not None and failure["message"] == job.error["message"]
    assert finished(manager, manager.submit(run.id, task="work")).status == "done"
    assert run.failure() is None


@pytest.mark.parametrize(
    ("counts", "message", "hint"),
    [
        ((4, 5), "The system killed the worker because memory ran out.", "fewer or shorter samples"),
        ((4, 4), "The worker was killed by another program or by hand.", "Try again."),
        ((None, None), "The worker was killed, perhaps by the system because memory ran out.", "fewer or shorter"),
    ],
)
def test_memory_is_blamed_where_the_system_says_so(
    manager: JobManager,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    counts: tuple[int | None, int | None],
    message: str,
    hint: str,
) -> None:
    left = iter(counts)
    monkeypatch.setattr("nirvana.jobs.lane.kills", lambda: next(left))
    job = finished(manager, manager.submit(run.id, task="die"))
    assert job.error is not None and job.error["message"] == message and hint in job.error["hint"]


def test_kills_for_lack_of_memory_are_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = tmp_path / "vmstat", tmp_path / "memory.events"
    monkeypatch.setattr("nirvana.out_of_memory.COUNTERS", counters)
    assert kills() is None
    counters[0].write_text("nr_free_pages 12\noom_kill 3\ndrop_pagecache 0\n")
    assert kills() == 3
    counters[1].write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n")
    assert kills() == 5
    counters[1].write_text("oom_kill many\n")
    assert kills() == 3


def test_the_log_survives_the_job(manager: JobManager, store: Store, run: Run) -> None:
    job = finished(manager, manager.submit(run.id, task="leave"))
    assert manager.log(job.id)[-1] == "a library gave up"
    assert JobManager(store, worker=WORKER).log(job.id)[-1] == "a library gave up"
    failed = finished(manager, manager.submit(run.id, task="break"))
    assert any("ZeroDivisionError" in line for line in manager.log(failed.id, lines=3))


def test_prints_of_libraries_do_not_garble_the_protocol(manager: JobManager, run: Run) -> None:
    job = finished(manager, manager.submit(run.id, task="chatter"))
    assert job.status == "done" and job.result == {"read": ""}
    assert {"printed", "said on stderr"} <= set(manager.log(job.id))


def test_bad_requests_are_refused_before_they_are_queued(manager: JobManager, store: Store, run: Run) -> None:
    bad: list[tuple[type[NirvanaError], Callable[[], Job]]] = [
        (RunError, lambda: manager.submit("example")),
        (RunError, lambda: manager.submit("../../etc")),
        (RunError, lambda: manager.submit(run.id, task="nothing")),
        (RunError, lambda: manager.submit(run.id, until="nothing")),
        (PlanError, lambda: manager.submit(store.create(run.recipe.change("allocation", sparsity=1.0)).id)),
    ]
    for kind, submit in bad:
        with pytest.raises(kind):
            submit()
    assert manager.jobs() == []


def test_export_and_continue_need_a_pruned_model(store: Store, run: Run) -> None:
    manager = JobManager(store, worker=WORKER)
    with pytest.raises(RunError, match="no pruned model"):
        manager.submit(run.id, task="export")
    with pytest.raises(RunError, match="no pruned model"):
        manager.submit(run.id, task="continue", prompt="Hello")
    for task in ("speed", "sizes"):
        with pytest.raises(RunError, match="no pruned model"):
            manager.submit(run.id, task=task)
    with pytest.raises(RunError, match="no field 'path'"):
        manager.submit(run.id, task="export", path="/tmp/elsewhere")
    manager.close()


@pytest.mark.parametrize(
    "arguments",
    [{"prompt": " "}, {"prompt": "x" * 10_000}, {"prompt": "Hi", "chat": "yes"}, {"prompt": "Hi", "max_new_tokens": 0}],
)
def test_arguments_of_a_continuation_are_checked(store: Store, run: Run, arguments: dict[str, Any]) -> None:
    run.put("prune", PruneSummary({}, {}, 0.0, "cpu"))
    manager = JobManager(store)
    with pytest.raises(RunError) as caught:
        manager.submit(run.id, task="continue", **arguments)
    assert caught.value.hint and manager.jobs() == []
    manager.close()


def test_the_end_of_a_job_is_recorded_once_that_can_be_done(
    manager: JobManager, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, failures = manager.store.index.finish, iter(range(2))

    def fails_at_first(*arguments: Any, **named: Any) -> bool:
        if next(failures, None) is not None:
            raise RunError("The index is full.", "Free some space.")
        return finish(*arguments, **named)

    monkeypatch.setattr(jobs_module, "PAUSE", 0.0)
    monkeypatch.setattr(manager.store.index, "finish", fails_at_first)
    assert finished(manager, manager.submit(run.id, task="work")).status == "done"


def test_a_live_run_cannot_be_deleted(manager: JobManager, store: Store, run: Run) -> None:
    job = running(manager, manager.submit(run.id, task="work", seconds=600))
    with pytest.raises(RunError, match="Cancel"):
        store.delete(run.id)
    assert run.folder.is_dir()
    manager.cancel(job.id)
    finished(manager, job)
    store.delete(run.id)
    assert not run.folder.exists() and manager.jobs(run.id) == []


@pytest.mark.parametrize(("words", "seconds"), [("", 600), ("2.5", 150), ("0", None), ("inf", None), ("soon", 600)])
def test_the_time_of_an_idle_worker_is_a_setting(
    words: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IDLE_MINUTES, words)
    assert idle_seconds() == seconds


def test_an_idle_worker_gives_its_memory_back(manager: JobManager, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IDLE_MINUTES, "0.001")
    first = (finished(manager, manager.submit(run.id, task="work")).result or {})["pid"]
    wait_until(lambda: not psutil.pid_exists(first))
    assert manager.resident() == []
    again = finished(manager, manager.submit(run.id, task="work"))
    assert again.status == "done" and (again.result or {})["pid"] != first


def test_unload_ends_an_idle_worker_only(manager: JobManager, run: Run) -> None:
    pid = (finished(manager, manager.submit(run.id, task="work")).result or {})["pid"]
    job = running(manager, manager.submit(run.id, task="work", seconds=600))
    with pytest.raises(RunError, match="in use"):
        manager.unload()
    manager.cancel(job.id)
    finished(manager, job)
    wait_until(lambda: unloaded(manager))
    wait_until(lambda: not psutil.pid_exists(pid))
    assert manager.resident() == []
    assert finished(manager, manager.submit(run.id, task="work")).status == "done"


def test_closing_interrupts_what_is_live_and_keeps_what_is_done(store: Store, run: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr(registry, "TASKS", {**registry.TASKS, **job_worker.TASKS})
    manager = JobManager(store, worker=WORKER)
    done = finished(manager, manager.submit(run.id, task="work"))
    live = manager.submit(store.create(run.recipe).id, task="deaf")
    waiting = manager.submit(store.create(run.recipe).id, task="work")
    wait_until(lambda: manager.job(live.id).step)
    manager.close()
    assert [manager.job(job.id).status for job in (done, live, waiting)] == ["done", "interrupted", "interrupted"]
    wait_until(lambda: not workers(command=WORKER[-1]))
    with pytest.raises(RunError, match="stopping"):
        manager.submit(run.id)


SERVER = """
import sys, time
sys.path[:0] = [{root!r}]
from tests.unit import job_worker
from nirvana.jobs import queue as jobs_module
from nirvana.jobs import registry
from nirvana.jobs.queue import JobManager
from nirvana.runs.store import Store
from pathlib import Path
registry.TASKS.update(job_worker.TASKS)
store = Store(Path({data!r}))
manager = JobManager(store, worker={worker!r})
manager.submit({run!r}, task={task!r})
manager.submit({run!r})
while True:
    time.sleep(0.1)
"""


def start_server(store: Store, run: Run, pid_file: Path, task: str) -> tuple[subprocess.Popen[bytes], int]:
    """A server process in the middle of a job, and the process id of its worker."""
    code = SERVER.format(root=str(ROOT), data=str(store.root), worker=WORKER, run=run.id, task=task)
    environment = {**os.environ, "TEST_WORKER_PID": str(pid_file)}
    command = [sys.executable, "-c", code]
    server = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=heed_interrupts)
    wait_until(lambda: (run.folder / "begun").exists() or server.poll() is not None)
    return server, int(pid_file.read_text())


@pytest.mark.parametrize("task", ["deaf", "hold"])
def test_a_worker_ends_with_its_parent_and_the_next_server_says_so(
    store: Store, run: Run, tmp_path: Path, task: str
) -> None:
    server, worker = start_server(store, run, tmp_path / "pid", task)
    assert {job.status for job in JobManager(store).jobs(run.id)} == {"running", "queued"}, "its owner is alive"
    server.kill()
    wait_until(lambda: not psutil.pid_exists(worker))
    manager = JobManager(store)  # the server is a zombie still: that counts as gone
    assert {job.status for job in manager.jobs(run.id)} == {"interrupted"}
    assert run.status == "interrupted"
    failure = run.failure()
    assert failure is not None and "stopped" in failure["message"] and failure["hint"]
    server.wait()


def test_ctrl_c_ends_server_and_worker(store: Store, run: Run, tmp_path: Path) -> None:
    server, worker = start_server(store, run, tmp_path / "pid", "deaf")
    os.killpg(server.pid, signal.SIGINT)  # as a terminal does: to the whole group
    start = time.monotonic()
    server.wait(timeout=LONG)
    wait_until(lambda: not psutil.pid_exists(worker))
    assert time.monotonic() - start < 20
    assert {job.status for job in JobManager(store).jobs(run.id)} == {"interrupted"}


def test_another_owners_job_cannot_be_cancelled_here(store: Store, run: Run, tmp_path: Path) -> None:
    server, _ = start_server(store, run, tmp_path / "pid", "deaf")
    manager = JobManager(store)
    job = manager.live(run.id)
    assert job is not None
    with pytest.raises(RunError, match="another program"):
        manager.cancel(job.id)
    server.kill()
    server.wait()


def test_a_fork_leaves_its_parents_workers_alone(manager: JobManager, run: Run) -> None:
    pid = (finished(manager, manager.submit(run.id, task="work")).result or {})["pid"]
    child = os.fork()
    if child == 0:
        manager.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert psutil.pid_exists(pid)
    assert (finished(manager, manager.submit(run.id, task="work")).result or {})["pid"] == pid


def test_auto_means_the_first_device(manager: JobManager, store: Store) -> None:
    names = [device.name for device in devices()]
    job = manager.submit(store.create(Recipe()).id, task="work")
    assert job.device == names[0]
    finished(manager, job)
