"""Execution of tasks in this process: its errors, and the job that other processes see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nirvana.errors import Cancelled, CorpusError, RunError
from nirvana.jobs import registry
from nirvana.jobs.execute import check_task, execute
from nirvana.jobs.foreground import execute_here
from nirvana.jobs.task import Task
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import Store
from nirvana.schema import Schema, option
from tests.reporter import Reporter


class Request(Schema):
    """How often the error is tried."""

    times: int = option(1, "--times", "tries", ge=1, le=3)


class Trying(Task[Request]):
    """A task that raises what it was made with."""

    name, title, request = "try", "Trying", Request

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.seen: list[str] = []

    def perform(self, run: Run, request: Request, models: ModelCache, reporter: Any) -> dict[str, Any]:
        reporter.step("second", 2, 2)
        self.seen += [job["status"] for job in jobs(run)]
        if self.error is not None:
            raise self.error
        return {"times": request.times}


class Counting(ModelCache):
    """Counts how often its models are dropped."""

    cleared = 0

    def clear(self) -> None:
        self.cleared += 1
        super().clear()


def jobs(run: Run) -> list[dict[str, Any]]:
    return run.index.rows("SELECT * FROM jobs ORDER BY number") if run.index else []


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Store(tmp_path / "data").create(Recipe())


def use(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> Trying:
    task = Trying(error)
    monkeypatch.setitem(registry.TASKS, "try", task)
    return task


def test_a_request_is_validated_before_any_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    task = use(monkeypatch)
    for name, arguments, words in (
        ("nothing", {}, "no task 'nothing'"),
        ("try", {"times": 4}, "times must be a whole number from 1 to 3"),
        ("try", {"path": "/"}, "no field 'path'"),
    ):
        for call in (execute, execute_here):
            with pytest.raises(RunError, match=words) as caught:
                call(run, name, arguments, Reporter())
            assert caught.value.hint
    assert task.seen == [] and jobs(run) == []
    assert execute(run, "try", {"times": 3}, Reporter()) == {"times": 3}


def test_the_example_is_refused_unless_the_task_only_reads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    task, example = use(monkeypatch), Store().open("example")
    for call in (execute, execute_here):
        with pytest.raises(RunError, match="example run cannot be changed"):
            call(example, "try", {}, Reporter())
    monkeypatch.setattr(task, "reads_only", True)
    assert execute_here(example, "try", {}, Reporter()) == {"times": 1}
    assert check_task(run, "try", {}) == Request()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")]
)
def test_memory_that_ran_out_drops_the_models(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    use(monkeypatch, error)
    models = Counting()
    with pytest.raises(RunError, match="Memory ran out"):
        execute(run, "try", {}, Reporter(), models)
    assert models.cleared == 1


def test_a_defect_keeps_the_models_and_shows_where_it_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, KeyError("layer"))
    models = Counting()
    with pytest.raises(RunError, match="KeyError: 'layer'") as caught:
        execute(run, "try", {}, Reporter(), models)
    assert models.cleared == 0 and "bug" in caught.value.hint
    assert "raise self.error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (None, "done", ""),
        (CorpusError("Too short.", "Give more."), "failed", "Too short."),
        (MemoryError(), "failed", "Memory ran out."),
        (Cancelled(), "cancelled", "Cancelled."),
        (KeyboardInterrupt(), "cancelled", "Cancelled."),
    ],
)
def test_a_job_of_this_process_is_live_and_then_ends_as_it_did(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, status: str, message: str
) -> None:
    task = use(monkeypatch, error)
    (run.folder / ".half").touch()
    if error is None:
        execute_here(run, "try", {"times": 2}, Reporter())
    else:
        with pytest.raises(RunError if isinstance(error, MemoryError) else type(error)):
            execute_here(run, "try", {"times": 2}, Reporter())
    (job,) = jobs(run)
    assert task.seen == ["running"] and (job["task"], job["status"]) == ("try", status)
    assert json.loads(job["arguments"]) == {"times": 2}
    if error is None:
        assert json.loads(job["result"]) == {"times": 2} and job["error"] is None
    else:
        found = json.loads(job["error"])
        assert (found["step"], found["message"]) == ("second", message) and found["hint"]
        assert not (run.folder / ".half").exists()
