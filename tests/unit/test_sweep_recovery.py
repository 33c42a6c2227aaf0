"""Recovery as a dimension of a sweep: its points, its rows, the change of ranking, and what is left on disk."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nirvana.errors import RecoveryError, RunError
from nirvana.recovery import recover
from nirvana.reporting.figures.sweep_recovery import recovery_by_way
from nirvana.reporting.sweep_recovery import before_after, ranking_words
from nirvana.reporting.sweeps import comparison, points_table, verdicts
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.recipe import Recipe, RecoveryChoice
from nirvana.runs.store import Store
from nirvana.runs.workspace import Workspace
from nirvana.studies.sweep import sweep
from nirvana.studies.sweep_grid import Grid, Point
from nirvana.studies.sweep_rows import Row, read_rows
from tests.counting import count_calls
from tests.sweeps import DENSE, PERPLEXITY, grid_of, make_rows

pytestmark = pytest.mark.usefixtures("library_texts")
GRID = grid_of(("nirvana", "taylor"), ("shared",), (0.2,), (0, 1, 2), recoveries=("none", "distill"))


def test_each_point_is_made_with_and_without() -> None:
    points = GRID.points()
    assert len(points) == 12 and [point.recovery for point in points[:4]] == ["none", "distill"] * 2
    assert points[1].label == "nirvana, same allocation, 20 %, gamma 3.36, distillation, seed 0"
    base = Recipe().change("recovery", method="lora", minutes=3.0, seed=7)
    assert points[-1].recipe(base).recovery == RecoveryChoice(method="distill", minutes=3.0, seed=9)
    assert points[-2].recipe(base).recovery == RecoveryChoice()
    plain, longer = grid_of(("nirvana",), ("shared",), (0.2,), (0, 1)), base.change("recovery", minutes=4.0)
    assert plain.same_rows(base, longer) and not GRID.same_rows(base, longer)
    assert GRID.same_rows(base, base.change("recovery", method="distill")), "the point has its own method"
    assert not plain.same_rows(base, base.change("evaluation", window=64))
    assert Point.from_json(points[1].to_json()) == points[1]
    old = {name: value for name, value in points[0].to_json().items() if name != "recovery"}
    assert Point.from_json(old) == points[0], "of a sweep before recoveries"
    with pytest.raises(RecoveryError, match="one of none, distill"):
        Grid(recoveries=("magic",))


def test_the_ranking_before_and_after() -> None:
    rows = make_rows(GRID)
    pairs = before_after(rows, PERPLEXITY)
    assert [pair.cell.way.criterion for pair in pairs] == ["taylor", "nirvana"], "the best before recovery first"
    before = [row.values[PERPLEXITY].pruned for row in rows if row.point[1:] == GRID.points()[3][1:]]
    expected = np.exp(np.mean(np.log(np.array(before, float) / DENSE)))
    assert pairs[0].before.value == pytest.approx(expected)
    assert pairs[0].before.low < expected < pairs[0].before.high < 1.36
    assert ranking_words(pairs, PERPLEXITY) == [
        "20 %, same allocation, gamma 3.36: taylor has the lowest perplexity on novels before distillation, nirvana "
        "after it, a significant difference."
    ]
    one = before_after([row for row in rows if row.point.seed == 0], PERPLEXITY)
    assert math.isinf(one[0].before.high) and "significance unknown" in ranking_words(one, PERPLEXITY)[0]
    assert before_after([row for row in rows if not row.point.trained], PERPLEXITY) == []


def test_the_figure_joins_both_models() -> None:
    rows = make_rows(GRID)
    chart = recovery_by_way(rows, PERPLEXITY)
    assert chart is not None and recovery_by_way(rows, "accuracy, minimal-pairs") is None
    joined, pruned, recovered = chart.figure.data
    assert (pruned.name, recovered.name) == ("pruned", "after distillation")
    assert joined.x[:2] == pytest.approx([pruned.x[0], recovered.x[0]]) and math.isnan(joined.x[2])
    assert list(chart.figure.layout.yaxis.ticktext) == ["taylor", "nirvana"]
    assert chart.figure.layout.shapes[0].x0 == 1 and "95 % intervals over seeds" in chart.reading
    assert list(chart.table["recovery"]) == ["distillation"] * 2


def test_recovered_points_compete_with_each_other() -> None:
    rows = make_rows(GRID)
    said = {verdict.text.split(":")[0] for verdict in verdicts(rows, PERPLEXITY)}
    rules = "20 %, same allocation, gamma 3.36"
    assert said == {rules, f"{rules}, after distillation"}
    assert comparison(rows, PERPLEXITY)[0] == [
        "same allocation, gamma 3.36", "same allocation, gamma 3.36, after distillation",
    ]  # fmt: skip
    table = points_table(rows)
    assert set(table["recovery"]) == {"none", "distillation"}
    assert table[f"{PERPLEXITY}, before recovery"].notna().sum() == 6


@pytest.fixture
def base(small_recipe: Recipe) -> Recipe:
    return small_recipe.change("recovery", minutes=0.0, tokens=256, batch=2, length=32, checks=1)


def test_a_recovered_point_has_both_numbers_and_leaves_no_weights(
    base: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    run = store.create(base)
    grid = grid_of(("magnitude",), ("shared",), (0.3,), (0,), recoveries=("none", "distill"))
    plain, trained = sweep(run, grid)
    assert not plain.failure and not trained.failure
    values = trained.values["KL divergence"]
    assert values.pruned == plain.values["KL divergence"].value and values.value != values.pruned
    assert plain.values["KL divergence"].pruned is None and Row.from_json(trained.to_json()) == trained
    point = store.open(trained.run_id)
    assert point.status == "done" and point.recovery() is not None
    assert not list(point.folder.glob("recover*.safetensors")) and not list(point.folder.glob("recovering*"))
    with pytest.raises(RunError, match="not stored") as caught:
        Workspace.of(point, models=ModelCache()).recovered()
    assert "Points of a sweep" in caught.value.hint
    calls = count_calls(monkeypatch, {recover: ("recover",)})
    assert sweep(run, grid) == [plain, trained] and read_rows(store.open(run.id)) == [plain, trained]
    longer = store.set_recipe(run.id, base.change("recovery", tokens=512))
    assert read_rows(longer) == [plain], "a recovery with another budget is another point"
    same, other = sweep(longer, grid)
    assert same == plain and other.fingerprint != trained.fingerprint and calls["recover"] == 1
