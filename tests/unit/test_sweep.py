"""Sweeps on a tiny random model: which points there are, what is computed once, and what survives."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from nirvana.errors import Cancelled, CompensationError, NirvanaError, PlanError, RunError, SaliencyError
from nirvana.jobs.execute import check_task, execute
from nirvana.progress import Progress
from nirvana.runs import measurements, planning
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.recipe import Recipe
from nirvana.runs.speed import SpeedRequest, measure_speeds
from nirvana.runs.store import Run, Store
from nirvana.runs.workspace import Workspace
from nirvana.studies.sweep import sweep
from nirvana.studies.sweep_grid import MOST_POINTS, Grid, Point
from nirvana.studies.sweep_rows import FILE, Row, read_grid, read_rows
from tests.counting import count_calls
from tests.reporter import Reporter
from tests.sweeps import grid_of

SMALL = Grid(criteria=("nirvana", "magnitude"), sparsities=(0.2, 0.4), seeds=(0, 1))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    return small_recipe.change("prune", samples=4, length=32)


@pytest.fixture
def base(store: Store, recipe: Recipe) -> Run:
    return store.create(recipe, name="Base")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each expensive call is made."""
    measured = ("perplexity", "divergence", "continue_with")
    return count_calls(monkeypatch, {planning: ("score",), measurements: measured})


class StopAfter:
    """Progress that is cancelled when the `number`-th point begins."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, label: str, number: int, points: int) -> None:
        if number == self.number:
            raise Cancelled()


def test_neighbours_share_most() -> None:
    points = SMALL.points()
    keys = [(point.seed, SMALL.criteria.index(point.criterion), point.sparsity) for point in points]
    assert keys == sorted(keys) and len(set(points)) == len(points)
    assert len(points) == 2 * 2 * (1 + 2), "NIRVANA's published allocation is the shared one: one point serves both"
    assert [point.method for point in points if point.criterion == "magnitude"] == ["shared", "published"] * 4
    assert all(point.as_published for point in points if point.criterion == "nirvana")


def test_as_published_means_its_own_compensation_and_gamma() -> None:
    grid = grid_of(("flap", "nirvana", "second-order"), sparsities=(0.2,), seeds=(0,), gammas=(4.0,))
    found = {(point.criterion, point.method): point for point in grid.points()}
    assert len(found) == 6
    assert found["flap", "published"].compensation == "bias" and found["flap", "shared"].compensation == "none"
    assert found["nirvana", "published"].gamma == 3.36 and not found["nirvana", "shared"].as_published
    assert found["second-order", "published"].compensation == "least_squares"
    wide = grid.with_values(compensations=("none", "bias"), gammas=(3.36, 4.0), methods=("shared",))
    assert len(wide.points()) == 3 * 4
    assert [point.setting for point in wide.points()[:3]] == ["gamma 3.36", "gamma 4", "gamma 3.36, bias"]
    assert [point.criterion for point in wide.points() if point.as_published] == ["nirvana"]


def test_a_point_changes_its_own_choices_only(recipe: Recipe) -> None:
    point = Point(3, "flap", "shared", 0.3, "bias", 2.0)
    made = point.recipe(recipe)
    assert (made.calibration.seed, made.calibration.candidates) == (3, 1)
    assert (made.saliency.criterion, made.allocation.sparsity, made.allocation.gamma) == ("flap", 0.3, 2.0)
    assert (made.prune.compensation, made.prune.samples, made.prune.seed) == ("bias", 4, recipe.prune.seed + 3)
    assert made.evaluation == recipe.evaluation and made.allocation.multiple_of == 4
    assert point.label == "flap, same allocation, 30 %, gamma 2, bias, seed 3"
    plain = Point(3, "flap", "published", 0.3, "none", 3.36)
    assert plain.recipe(recipe).prune == Recipe().prune and plain.setting == ""


def test_equal_widths_are_a_dimension_of_the_allocations_that_have_them(recipe: Recipe) -> None:
    grid = grid_of(("flap",), ("shared", "published", "measured"), (0.3,), (0,), widths=("own", "equal"))
    found = [(point.method, point.equal) for point in grid.points()]
    assert found == [("shared", False), ("shared", True), ("published", False), ("measured", False), ("measured", True)]
    equal = grid.points()[1]
    assert equal.label == "flap, same allocation, 30 %, gamma 3.36, equal widths, seed 0" and not equal.as_published
    assert equal.recipe(recipe).allocation.uniform and not grid.points()[0].recipe(recipe).allocation.uniform
    edited = recipe.change("allocation", widths=("decoder.0.mlp=8",))
    assert all(point.recipe(edited).allocation.widths == () for point in grid.points())
    nirvana = grid_of(("nirvana",), ("shared", "published"), (0.3,), (0,), widths=("equal",)).points()
    assert [(point.method, point.equal, point.as_published) for point in nirvana] == [
        ("shared", True, False),
        ("published", False, True),
    ]


def test_grids_travel_as_json() -> None:
    grid = Grid(gammas=(1.0, math.inf), compensations=("bias",), speed=True)
    assert Grid.from_json(grid.to_json()) == grid
    assert "inf" in str(grid.to_json()) and Grid.from_json({"seeds": [4, 4, 5]}).seeds == (4, 5)
    assert all(Point.from_json(point.to_json()) == point for point in grid.points())


@pytest.mark.parametrize(
    "data",
    [{"seed": [0]}, {"seeds": 3}, {"seeds": [True]}, {"criteria": [1]}, {"sparsities": ["a lot"]}, {"speed": 1}, [1]],
)
def test_what_is_no_grid_is_refused(data: Any) -> None:
    with pytest.raises(NirvanaError) as caught:
        Grid.from_json(data)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"criteria": ()}, RunError, "no criteria"),
        ({"criteria": ("guess",)}, SaliencyError, "guess"),
        ({"methods": ("fair",)}, PlanError, "fair"),
        ({"sparsities": (1.2,)}, PlanError, "between 0 and 1"),
        ({"gammas": (-1.0,)}, PlanError, "gamma"),
        ({"seeds": (-1,)}, RunError, "seeds"),
        ({"compensations": ("luck",)}, CompensationError, "luck"),
        ({"seeds": tuple(range(200))}, RunError, f"at most {MOST_POINTS}"),
    ],
)
def test_a_grid_out_of_range_is_refused(values: dict[str, Any], error: type[NirvanaError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        Grid(**values).check()
    assert caught.value.hint


def test_one_saliency_pass_serves_many_plans(base: Run, store: Store, calls: Counter[str]) -> None:
    seen: list[Progress] = []
    rows = sweep(base, SMALL, progress=seen.append)
    assert [row.point for row in rows] == SMALL.points() and not any(row.failure for row in rows)
    assert calls["score"] == 2 * 2, "once a criterion and seed"
    assert calls["perplexity"] == len({row.values["perplexity, sample.txt"].value for row in rows}) + 1
    assert calls["continue_with"] == 0
    children = store.children(base.id)
    assert [child.name for child in children] == [point.label for point in SMALL.points()]
    assert all(child.status == "done" for child in children) and [run.id for run in store.runs()] == [base.id]
    assert read_rows(base) == rows and read_grid(base) == SMALL
    assert all(0 <= item.fraction <= 1 for item in seen) and seen[0].stage


def test_rows_say_what_their_runs_hold(base: Run, store: Store) -> None:
    grid = grid_of(("taylor",), ("shared",), (0.3,), (5,), ("bias",), (2.0,))
    (row,) = sweep(base, grid)
    run = store.open(row.run_id)
    report, plan, summary = run.report(), run.plan(), run.pruned()
    assert report is not None and plan is not None and summary is not None and run.study == base.id
    assert row.sparsity == plan.sparsity and row.sizes["parameters"] == summary.parameters["pruned"]
    assert set(row.values) == {"perplexity, sample.txt", "KL divergence"} and row.speed == {}
    pruned, dense = (report.find("perplexity", subject) for subject in ("pruned", "dense"))
    assert pruned is not None and dense is not None
    assert row.values["perplexity, sample.txt"] == (
        pruned.value, pruned.standard_error, dense.value, dense.standard_error, None, None
    )  # fmt: skip
    assert summary.compensation["method"] == "bias" and row.seconds > 0
    assert Row.from_json(row.to_json()) == row


def test_methods_meet_at_the_same_sparsity(base: Run) -> None:
    grid = grid_of(("magnitude", "flap"), sparsities=(0.3,), seeds=(0,))
    rows = sweep(base, grid)
    from nirvana.runs.store import Store

    plan = Store().open(rows[0].run_id).plan()
    assert plan is not None
    block = 4 * 96 / plan.layout.prunable  # 4 neurons of 3 x 32 weights
    layers = len({site.layer for site in plan.layout})
    for row in rows:
        per_layer = row.point.method == "published" and row.point.criterion == "magnitude"
        assert 0 <= 0.3 - row.sparsity < block * (layers if per_layer else 1), row.point.label


def test_a_finished_sweep_computes_nothing_and_a_grown_one_what_is_new(
    base: Run, store: Store, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sweep(base, SMALL)
    before, lines = Counter(calls), (base.folder / FILE).read_text()
    with monkeypatch.context() as patched:
        patched.setattr(ModelCache, "dense", lambda *_: pytest.fail("the model is not needed"))
        assert sweep(base, SMALL) == first
    assert calls == before and (base.folder / FILE).read_text() == lines
    grown = SMALL.with_values(seeds=(0, 1, 2))
    begun: list[str] = []
    rows = sweep(base, grown, on_point=lambda label, number, points: begun.append(label))
    assert begun == [point.label for point in grown.points() if point.seed == 2] and len(rows) == 18
    assert calls["score"] == before["score"] + 2 and rows[:12] == first
    assert len(store.children(base.id)) == 18


def test_a_cancelled_sweep_keeps_what_is_done_and_goes_on(base: Run, store: Store, calls: Counter[str]) -> None:
    with pytest.raises(Cancelled):
        sweep(base, SMALL, on_point=StopAfter(4))
    kept = read_rows(base)
    assert [row.point for row in kept] == SMALL.points()[:3]
    rows = sweep(base, SMALL)
    assert rows[:3] == kept and len(rows) == 12 and len(store.children(base.id)) == 12
    assert calls["score"] == 4, "once a criterion and seed, as if it had not been stopped"


def test_a_point_that_was_stopped_half_way_goes_on_in_its_run(base: Run, store: Store) -> None:
    stopped = False

    def stop_at_scoring(progress: Progress) -> None:
        nonlocal stopped
        if "saliency" in progress.stage or "Scoring" in progress.stage:
            stopped = True
            raise Cancelled()

    grid = grid_of(("taylor",), ("shared",), (0.3,), (0,))
    with pytest.raises(Cancelled):
        sweep(base, grid, progress=stop_at_scoring)
    assert stopped and len(store.children(base.id)) == 1 and read_rows(base) == []
    (row,) = sweep(base, grid)
    assert [child.id for child in store.children(base.id)] == [row.run_id]


def test_a_row_that_was_half_written_is_computed_again(base: Run, store: Store, calls: Counter[str]) -> None:
    grid = grid_of(("taylor",), ("shared",), (0.2, 0.3), (0,))
    rows = sweep(base, grid)
    path, before = base.folder / FILE, Counter(calls)
    path.write_bytes(path.read_bytes()[:-40])
    assert read_rows(base) == rows[:1]
    again = sweep(base, grid)
    assert [(row.run_id, row.values) for row in again] == [(row.run_id, row.values) for row in rows]
    assert len(path.read_text().splitlines()) == 4 and len(read_rows(base)) == 2
    assert calls["perplexity"] == before["perplexity"], "the run was there"


def test_a_point_that_cannot_be_is_recorded_and_the_others_go_on(base: Run, store: Store) -> None:
    grid = grid_of(("block-influence", "taylor"), sparsities=(0.3, 0.95), seeds=(0,))
    rows = {(row.point.criterion, row.point.method, row.point.sparsity): row for row in sweep(base, grid)}
    assert len(rows) == 8
    failed = {key for key, row in rows.items() if row.failure}
    assert ("taylor", "shared", 0.95) in failed and ("taylor", "shared", 0.3) not in failed
    assert "95" in rows["taylor", "shared", 0.95].failure and not rows["taylor", "shared", 0.95].run_id
    assert rows["taylor", "published", 0.3].values or "reach" in rows["taylor", "published", 0.3].failure
    assert len(store.children(base.id)) == 8 - len(failed)
    assert {row.point for row in read_rows(base)} == set(grid.points())


def test_equal_widths_are_recorded_where_a_rule_cannot_give_them(store: Store, recipe: Recipe) -> None:
    base = store.create(recipe.change("allocation", uniform=True))
    rows = sweep(base, grid_of(("flap",), sparsities=(0.3,), seeds=(0,)))
    assert [bool(row.failure) for row in rows] == [False, True] and "equal widths" in rows[1].failure


def test_a_missing_model_ends_the_sweep(store: Store, recipe: Recipe) -> None:
    base = store.create(recipe.change("model", name="/nowhere/at-all"))
    with pytest.raises(NirvanaError):
        sweep(base, SMALL)
    assert read_rows(base) == [] and store.children(base.id) == []


def test_rows_around_another_recipe_do_not_count(base: Run, store: Store) -> None:
    grid = grid_of(("magnitude",), ("shared",), (0.3,), (0,))
    (row,) = sweep(base, grid)
    changed = store.set_recipe(base.id, base.recipe.change("allocation", multiple_of=2))
    assert read_rows(changed) == []
    (other,) = sweep(changed, grid)
    assert other.run_id != row.run_id and read_rows(base) == [row] and read_rows(changed) == [other]


def test_a_deleted_point_is_computed_again(base: Run, store: Store) -> None:
    grid = grid_of(("magnitude",), ("shared",), (0.2, 0.3), (0,))
    rows = sweep(base, grid)
    store.delete(rows[0].run_id)
    assert [row.point for row in read_rows(base)] == [rows[1].point]
    again = sweep(base, grid)
    assert again[1] == rows[1] and again[0].run_id != rows[0].run_id and again[0].values == rows[0].values


def test_speed_is_measured_where_it_is_asked_for(base: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = SpeedRequest(prompt=8, new_tokens=3, repeats=2)
    monkeypatch.setattr("nirvana.studies.sweep.SPEED", quick)
    grid = grid_of(("magnitude",), ("shared",), (0.3,), (0,))
    (without,) = sweep(base, grid)
    assert not without.speed
    (row,) = sweep(base, grid.with_values(speed=True))
    assert set(row.speed) == {"prefill", "decode"} and row.run_id == without.run_id and row.values == without.values
    assert row.speed["decode"].low <= row.speed["decode"].ratio <= row.speed["decode"].high
    found = store.open(row.run_id).speed()
    assert found is not None and found.models["pruned"].decode.median == row.speed["decode"].tokens
    assert sweep(base, grid) == [row] == read_rows(base)


def test_a_timing_of_another_protocol_is_neither_mixed_in_nor_lost(
    base: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = SpeedRequest(prompt=8, new_tokens=3, repeats=2)
    monkeypatch.setattr("nirvana.studies.sweep.SPEED", quick)
    grid, models = grid_of(("magnitude",), ("shared",), (0.3,), (0,)), ModelCache()
    (row,) = sweep(base, grid, models=models)
    run = store.open(row.run_id)
    own = measure_speeds(Workspace.of(run, models=models), SpeedRequest(batch=2, prompt=12, new_tokens=3, repeats=2))
    run.attach("speed", own)
    (base.folder / FILE).unlink()
    (again,) = sweep(base, grid, models=models)
    assert again.run_id == row.run_id and not again.speed, "it is no timing of the sweep"
    (timed,) = sweep(base, grid.with_values(speed=True), models=models)
    assert timed.speed and timed.speed["decode"].tokens != own.models["pruned"].decode.median
    kept = run.speed()
    assert kept is not None and kept == own, "what was measured on the Compare page stays there"


def test_a_point_that_takes_too_much_memory_is_recorded_and_the_others_go_on(
    base: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Workspace.prune_model

    def hungry(work: Workspace, progress: Any = None) -> Any:
        if work.recipe.allocation.sparsity == 0.2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1e15 bytes")
        return original(work, progress)

    grid = grid_of(("magnitude",), ("shared",), (0.2, 0.3), (0,))
    monkeypatch.setattr(Workspace, "prune_model", hungry)
    first, second = sweep(base, grid)
    assert first.failure.startswith("Memory ran out. Use fewer") and second.values and not second.failure
    monkeypatch.setattr(Workspace, "prune_model", original)
    later, same = sweep(base, grid)
    assert later.values and not later.failure and same == second


def test_a_defect_is_not_taken_for_a_point_that_cannot_be(base: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(work: Workspace, progress: Any = None) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Workspace, "prune_model", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        sweep(base, grid_of(("magnitude",), ("shared",), (0.3,), (0,)))
    assert read_rows(base) == []


def test_a_model_without_the_positions_is_not_timed(base: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nirvana.studies.sweep.SPEED", SpeedRequest(prompt=30_000))
    with pytest.raises(RunError, match="positions"):
        sweep(base, grid_of(("magnitude",), ("shared",), (0.3,), (0,), speed=True))


def test_the_task_checks_before_it_is_queued(base: Run, store: Store) -> None:
    grid = {"criteria": ["magnitude"], "methods": ["shared"], "sparsities": [0.3], "seeds": [0]}
    assert execute(base, "sweep", grid, Reporter()) == {"points": 1, "failed": 0}
    child = store.children(base.id)[0]
    for run, words in ((child, "point of a study"), (store.open("example"), "example")):
        with pytest.raises(RunError, match=words):
            check_task(run, "sweep", grid)
    with pytest.raises(NirvanaError):
        check_task(base, "sweep", {"criteria": ["guess"]})
