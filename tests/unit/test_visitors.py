"""Visitors of a public demo: each has runs and jobs of their own, and jobs of limited work."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.web.server.starlette.starlette_app_utils import generate_xsrf_token_string

from nirvana.dashboard.visitors import browser_token
from nirvana.errors import RunError
from nirvana.jobs import demo, registry
from nirvana.jobs.demo import check_job, within_limits
from nirvana.jobs.queue import JobManager
from nirvana.jobs.records import device_of
from nirvana.jobs.visitor import MOST_JOBS, VisitorJobs
from nirvana.runs.presets import PRESETS
from nirvana.runs.recipe import Recipe
from nirvana.runs.record import read_record
from nirvana.runs.store import EXAMPLE, Run, Store
from tests.unit import job_worker
from tests.unit.test_jobs import finished, wait_until

RECIPE = Recipe().change("model", name="tiny-llama", device="cpu")
UNKNOWN = "0123456789ab"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


@pytest.fixture
def manager(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobManager]:
    monkeypatch.setattr(registry, "TASKS", {**registry.TASKS, **job_worker.TASKS})
    monkeypatch.setattr(demo, "LIMITED", (*demo.LIMITED, job_worker.Duration))
    manager = JobManager(store, worker=(sys.executable, str(Path(job_worker.__file__))))
    yield manager
    manager.close()


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(RunError) as caught:
        action()
    return str(caught.value)


ACTIONS: dict[str, Callable[[Store, str], object]] = {
    "open": lambda runs, run_id: runs.open(run_id),
    "rename": lambda runs, run_id: runs.rename(run_id, "Mine"),
    "pin": lambda runs, run_id: runs.pin(run_id, True),
    "recipe": lambda runs, run_id: runs.set_recipe(run_id, RECIPE),
    "size": lambda runs, run_id: runs.disk_use(run_id),
    "delete": lambda runs, run_id: runs.delete(run_id),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_a_run_of_someone_else_answers_like_one_that_does_not_exist(
    action: Callable[[Store, str], object], store: Store
) -> None:
    theirs = store.of("ann").create(RECIPE, name="Theirs")
    of_nobody = store.create(RECIPE, name="By the command line")
    bob = store.of("bob")
    for run in (theirs, of_nobody):
        assert error_of(lambda: action(bob, run.id)) == error_of(lambda: action(bob, UNKNOWN))  # noqa: B023
        assert store.open(run.id).name == run.name and not store.open(run.id).pinned
    action(store.of("ann"), theirs.id)


def test_runs_are_listed_to_their_visitor_and_to_the_user_of_the_machine(store: Store) -> None:
    runs = {name: store.of(name).create(RECIPE, name=name) for name in ("ann", "bob")}
    for name, run in runs.items():
        assert [each.id for each in store.of(name).runs()] == [run.id]
    assert {run.id for run in store.runs()} == {run.id for run in runs.values()}
    assert store.of("ann").open(EXAMPLE).is_example and store.of("").runs() == []


def test_points_of_a_study_belong_to_its_visitor(store: Store) -> None:
    base = store.of("ann").create(RECIPE)
    point = store.create(RECIPE, study=base)  # as the worker does, which has no visitor
    assert [run.id for run in store.of("ann").children(base.id)] == [point.id]
    assert store.of("ann").open(point.id).study == base.id
    assert store.of("bob").children(base.id) == []
    assert "no such run" in error_of(lambda: store.of("bob").open(point.id))
    assert "no such run" in error_of(lambda: store.of("bob").create(RECIPE, study=base))


def test_the_visitor_is_kept_beside_the_index(store: Store) -> None:
    run = store.of("ann").create(RECIPE)
    record = read_record(run.folder)
    assert record is not None and record.visitor == "ann"
    for file in store.root.glob("runs.sqlite3*"):
        file.unlink()
    again = Store(store.root)
    assert again.of("ann").open(run.id).id == run.id
    assert "no such run" in error_of(lambda: again.of("bob").open(run.id))


def test_an_index_of_version_3_gets_visitors(store: Store) -> None:
    run = store.create(RECIPE)
    with store.index.connect() as connection:
        connection.execute("ALTER TABLE runs DROP COLUMN visitor")
        connection.execute("PRAGMA user_version = 3")
    again = Store(store.root)
    assert again.open(run.id).visitor == "" and again.of("bob").runs() == []
    assert again.of("bob").create(RECIPE).visitor == "bob"


def test_jobs_of_someone_else_do_not_exist(manager: JobManager, store: Store) -> None:
    ann, bob = VisitorJobs(manager, "ann"), VisitorJobs(manager, "bob")
    run = ann.store.create(RECIPE)
    mine = bob.store.create(RECIPE)
    device = device_of(run)
    assert ann.next_place(device) == 0 and ann.others() == 0
    job = ann.submit(run.id, task="write", seconds=1)
    wait_until(lambda: ann.job(job.id).text == "Once upon")
    assert bob.next_place(device) == 1 and bob.others() == 1 and ann.others() == 0
    assert bob.jobs() == bob.jobs(run.id) == bob.live_jobs() == [] and bob.live(run.id) is None
    assert error_of(lambda: bob.job(job.id)) == error_of(lambda: bob.job(UNKNOWN))
    assert error_of(lambda: bob.cancel(job.id)) == error_of(lambda: bob.cancel(UNKNOWN))
    assert error_of(lambda: bob.submit(run.id, task="write")) == error_of(lambda: bob.submit(UNKNOWN, task="write"))
    second = ann.submit(run.id, task="work")
    third = bob.submit(mine.id, task="work")
    assert (second.position, third.position, bob.next_place(device)) == (1, 2, 3), "true places in the whole queue"
    assert bob.live_jobs()[0].id == third.id and bob.others() == 2
    assert [each.id for each in manager.live_jobs()] == [job.id, second.id, third.id]
    assert manager.others() == 0 and manager.job(job.id).live
    ann.cancel(job.id)
    assert finished(manager, third).status == "done"
    assert ann.log(job.id) == manager.log(job.id) and bob.log(job.id) == []
    assert manager.log(third.id) == bob.log(third.id)


def test_a_log_is_read_by_its_visitor_only(manager: JobManager) -> None:
    ann, bob = VisitorJobs(manager, "ann"), VisitorJobs(manager, "bob")
    run = ann.store.create(RECIPE)
    job = ann.submit(run.id, task="work")
    assert finished(manager, job).status == "done"
    folder = run.folder / "logs"
    folder.mkdir(exist_ok=True)
    (folder / f"{job.id}.txt").write_text("A secret prompt\n", encoding="utf-8")
    assert ann.log(job.id) == ["A secret prompt"] and bob.log(job.id) == []


def test_a_visitor_has_few_jobs_at_a_time(manager: JobManager) -> None:
    ann, bob = VisitorJobs(manager, "ann"), VisitorJobs(manager, "bob")
    runs = [ann.store.create(RECIPE) for _ in range(MOST_JOBS)]
    jobs = [ann.submit(run.id, task="write", seconds=1) for run in runs]
    assert f"at most {MOST_JOBS} jobs" in error_of(lambda: ann.submit(runs[0].id, task="work"))
    bob.check_room(MOST_JOBS)
    ann.cancel(jobs[-1].id)
    ann.check_room()


def job(task: str, recipe: Recipe = RECIPE, run: Run | None = None, **arguments: Any) -> None:
    check_job(run, recipe, registry.find_task(task).request.from_json(arguments))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", ["tiny-llama", "tiny-qwen3", "tiny-t5", "smollm2-135m"])
def test_what_the_pages_offer_is_within_the_limits(preset: str, model: str) -> None:
    recipe = within_limits(PRESETS[preset].recipe(model))
    job("run", recipe)
    for task in ("search-allocation", "kernel", "speed", "sizes", "sensitivity", "continue", "export"):
        job(task, recipe)
    job("tune", recipe, corpora=["python-docs", "library-docs", "stdlib-code"])
    job("sensitivity", recipe, **registry.find_task("sensitivity").request().to_json())
    plain = Recipe().change("model", name=model)
    job("sweep", plain)
    job("matrix", plain, corpora=["python-docs", "library-docs", "stdlib-code"])


TRAINED = RECIPE.change("recovery", method="distill", minutes=5.0)


@pytest.mark.parametrize(
    ("task", "recipe", "arguments", "words"),
    [
        ("tune", RECIPE, {"minutes": 11.0, "corpora": ["python-docs"]}, "minutes"),
        ("tune", RECIPE, {"minutes": 0.0, "trials": 5, "corpora": ["python-docs"]}, "time limit"),
        ("tune", RECIPE, {"corpora": ["/secret.txt"]}, "built-in"),
        ("search-allocation", RECIPE, {"minutes": 60.0}, "minutes"),
        ("search-allocation", RECIPE, {"minutes": 0.0, "steps": 9}, "time limit"),
        ("search-allocation", RECIPE, {"samples": 4096, "length": 1024}, "texts to read"),
        ("search-allocation", RECIPE, {"length": 30_000}, "windows"),
        ("run", TRAINED.change("recovery", minutes=10.5), {}, "minutes"),
        ("run", TRAINED.change("recovery", minutes=0.0, tokens=10), {}, "time limit"),
        ("run", TRAINED.change("recovery", minutes=0.0, epochs=1), {}, "time limit"),
        ("run", TRAINED.change("recovery", batch=4096), {}, "batches"),
        ("run", TRAINED.change("recovery", length=4096), {}, "windows"),
        ("run", TRAINED.change("recovery", checks=1000), {}, "checks"),
        ("run", RECIPE.change("calibration", samples=4096, candidates=64), {}, "texts to read"),
        (
            "run",
            RECIPE.change("calibration", samples=4096, candidates=1).change("allocation", rounds=16),
            {},
            "to read",
        ),
        ("run", RECIPE.change("calibration", length=8192), {}, "windows"),
        ("run", RECIPE.change("prune", samples=65_536, compensation="least_squares"), {}, "texts to read"),
        ("run", RECIPE.change("evaluation", max_tokens=1 << 30), {}, "texts to read"),
        ("run", RECIPE.change("evaluation", window=16_384), {}, "windows"),
        ("run", RECIPE.change("evaluation", corpora=("/etc/passwd",)), {}, "built-in"),
        ("run", RECIPE.change("model", name="/somewhere"), {}, "built-in"),
        ("sweep", TRAINED, {"recoveries": ["none", "distill"]}, "minutes"),
        ("sweep", RECIPE, {"seeds": list(range(20))}, "points"),
        ("sweep", RECIPE.change("recovery", minutes=0.0), {"recoveries": ["lora"]}, "time limit"),
        ("matrix", RECIPE, {"corpora": ["python-docs", "library-docs", "stdlib-code"], "seeds": 16}, "points"),
        ("matrix", RECIPE, {"corpora": ["python-docs", "/secret.txt"]}, "built-in"),
        ("kernel", RECIPE, {"seeds": list(range(9))}, "points"),
        ("kernel", RECIPE, {"samples": 1024, "length": 2048}, "texts to read"),
        ("speed", RECIPE, {"new_tokens": 512}, "generated"),
        ("speed", RECIPE, {"batch": 256, "prompt": 1024}, "batches"),
        ("speed", RECIPE, {"schemes": ["int8"] * 99}, "generated"),
        ("sizes", RECIPE, {"schemes": ["int8"] * 99}, "texts to read"),
        ("sensitivity", RECIPE, {"levels": [each / 1000 for each in range(1, 999)]}, "texts to read"),
        ("sensitivity", RECIPE, {"samples": 4096, "length": 2048}, "texts to read"),
        ("ablation", RECIPE, {"count": 100_000}, "texts to read"),
        ("ablation", RECIPE, {"length": 4096}, "windows"),
        ("ablate-unit", RECIPE, {"samples": 1024, "length": 2048}, "texts to read"),
    ],
)
def test_a_job_beyond_a_limit_is_refused_with_the_limit(
    task: str, recipe: Recipe, arguments: dict[str, Any], words: str
) -> None:
    assert words in error_of(lambda: job(task, recipe, **arguments))


def test_every_task_has_limits_or_is_refused() -> None:
    assert {task.request for task in registry.TASKS.values()} == set(demo.LIMITED)
    with pytest.raises(RunError, match="does not offer"):
        check_job(None, RECIPE, job_worker.Duration())


def test_the_error_has_the_number_and_its_limit() -> None:
    message = error_of(lambda: job("run", TRAINED.change("recovery", minutes=12.0)))
    assert message.startswith("This demo allows time limits, in minutes and added up, of at most 10; this job has 12.")
    assert "install the program" in message


def test_equal_steps_of_a_sweep_are_counted_once() -> None:
    """Oracle: two sparsities share their scores, so the second adds the evaluation of its model only."""

    def tokens(*sparsities: float) -> float:
        grid = registry.find_task("sweep").request.from_json(
            {"criteria": ["nirvana"], "methods": ["shared"], "sparsities": list(sparsities), "seeds": [0]}
        )
        return next(each.value for each in demo.amounts(None, RECIPE, grid) if "to read" in each.words)

    drawn, measured = RECIPE.calibration, RECIPE.evaluation
    evaluation = 2 * measured.max_tokens + drawn.probe_samples * drawn.probe_length  # of one model
    assert tokens(0.2) == drawn.samples * drawn.length + 2 * evaluation, "dense and pruned"
    assert tokens(0.2, 0.4) == tokens(0.2) + evaluation


def test_results_that_are_there_take_no_work(store: Store) -> None:
    example = store.open(EXAMPLE)
    assert example.recipe.recovery.minutes > demo.MINUTES
    assert "minutes" in error_of(lambda: job("run", example.recipe))
    job("run", example.recipe, example)
    job("run", example.recipe.change("evaluation", window=256), example)
    assert "minutes" in error_of(lambda: job("run", example.recipe.change("allocation", sparsity=0.3), example))


def test_a_job_is_checked_where_it_is_submitted(manager: JobManager) -> None:
    ann = VisitorJobs(manager, "ann")
    run = ann.store.create(RECIPE)
    refused = {"minutes": 11.0, "corpora": ["python-docs"]}
    assert "at most 10" in error_of(lambda: ann.submit(run.id, task="tune", **refused))
    assert manager.jobs() == []


def test_a_browser_is_recognised_by_its_token_whatever_the_mask() -> None:
    token = bytes(range(16))
    cookies = {generate_xsrf_token_string(token) for _ in range(5)}
    assert len(cookies) == 5 and {browser_token(cookie) for cookie in cookies} == {token}
    assert browser_token(generate_xsrf_token_string()) != browser_token(generate_xsrf_token_string())


@pytest.mark.parametrize("cookie", [None, "", "2|zz|zz|1", "2|00000000||1", "1|a|b|c", "2|00000000|0011|1", 7, "a"])
def test_another_cookie_names_nobody(cookie: object) -> None:
    assert browser_token(cookie) is None


def test_the_example_has_no_visitor(store: Store, tmp_path: Path) -> None:
    from nirvana.runs.store import write_example

    run = store.of("ann").create(RECIPE, name="Demo")
    write_example(run, tmp_path / "example")
    record = read_record(tmp_path / "example")
    assert record is not None and record.visitor == ""
    shutil.rmtree(tmp_path / "example")
