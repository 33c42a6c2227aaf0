"""Cost tables: measured in turn, cached by shape and device, kept by runs, and used by every way to a plan."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nirvana as nv
from nirvana import cli
from nirvana.costs import CostTable, CostTables
from nirvana.errors import Cancelled, ModelError, PlanError, RunError
from nirvana.evaluation import costs, speed
from nirvana.evaluation.costs import byte_costs, grid, measure_costs, mixed_bytes
from nirvana.jobs.execute import check_task, execute
from nirvana.models.families.t5 import T5Family
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.plan import PruningPlan
from nirvana.progress import Progress
from nirvana.reporting.code import command_line, python_code
from nirvana.runs.costs import cached_costs
from nirvana.runs.describe import setting
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.runs.workspace import Workspace
from tests.costs import linear, scored
from tests.families import test_t5 as makers
from tests.reporter import Reporter

SHORT = {"budget_phase": "decode", "budget_length": 8}


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    chosen = small_recipe.change("saliency", criterion="magnitude")
    return chosen.change("allocation", budget="latency", gamma=1.0, **SHORT)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """A made-up table in place of the measurement, which is counted by phase."""
    calls: Counter[str] = Counter()

    def measured(lm: LM, *, progress: Any = None, **protocol: Any) -> CostTable:
        calls[protocol["phase"]] += 1
        return linear(lm.layout, **protocol)

    monkeypatch.setattr(costs, "measure_costs", measured)
    return calls


def test_sizes_are_multiples_up_to_the_module(tiny_lm: LM) -> None:
    mlp, attention = ("decoder", "mlp"), ("decoder", "attention")
    layout = tiny_lm.layout
    assert grid(1536, mlp, layout) == list(range(64, 1537, 64))
    assert grid(8960, mlp, layout)[:3] == [384, 768, 1152] and grid(8960, mlp, layout)[-1] == 8960
    assert grid(48, mlp, layout) == [8, 16, 24, 32, 40, 48] and grid(5, mlp, layout) == [5]
    assert grid(3, attention, layout) == [1, 2, 3] and len(grid(64, attention, layout)) == 22


def test_load_on_the_machine_does_not_bend_a_table(tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that is random at every reading, costs still never fall."""
    draw, now = np.random.default_rng(0), 0.0

    def clock() -> float:
        nonlocal now
        now += float(draw.exponential())
        return now

    monkeypatch.setattr(speed, "clock", clock)
    table = measure_costs(tiny_lm, length=4, repeats=4)
    for kind in table.modules.values():
        assert (np.diff(kind.costs) >= 0).all() and kind.costs[0] > 0
    assert table.protocol["spread"] > 0.5 and table.blocks["decoder"] > 0 and table.fixed > 0
    assert CostTable.from_json(json.loads(json.dumps(table.to_json()))).to_json() == table.to_json()


def test_every_copy_is_reported_and_may_cancel(tiny_lm: LM) -> None:
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        measure_costs(tiny_lm, length=4, repeats=2, progress=stop)
    assert [progress.done for progress in seen] == [0, 1] and seen[0].total == 4
    for block in tiny_lm.family.blocks(tiny_lm.weights())["decoder"]:
        assert not block._forward_hooks and not block._forward_pre_hooks


@pytest.mark.parametrize(
    "values", [{"phase": "training"}, {"batch": 0}, {"length": 0}, {"repeats": 0}, {"length": 512}]
)
def test_what_cannot_be_measured_is_refused(tiny_lm: LM, values: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        measure_costs(tiny_lm, **values)
    assert caught.value.hint


def test_a_pruned_model_is_measured_up_to_its_widest_layer(tiny_lm: LM) -> None:
    plan = nv.allocate(scored(tiny_lm.layout), sparsity=0.4, gamma=1.0)
    small = nv.prune(tiny_lm, plan)
    table = measure_costs(small, length=4, repeats=1)
    table.check(small.layout)
    widest = max(len(kept) for site, kept in plan.items() if site.module == "mlp")
    assert table.modules["decoder", "mlp"].sizes[-1] == widest


def test_bytes_are_those_of_the_weights(tiny_lm: LM, tmp_path: Path) -> None:
    table = byte_costs(tiny_lm)
    everything = {site: place.units for site, place in tiny_lm.layout.items()}
    assert table.prunable(everything) == 4 * tiny_lm.layout.prunable
    assert table.total(everything) == tiny_lm.weight_bytes and mixed_bytes(tiny_lm) is None
    makers.T5Tests.write(tmp_path)
    half = load_model(tmp_path, device="cpu", dtype="float16")  # T5's wo stays in float32
    mixed = mixed_bytes(half)
    assert mixed is not None and mixed.unit == "bytes"
    hidden = half.family.geometry(half.settings)["hidden"]
    for stack in half.layout.stacks:
        inputs = half.layout[nv.Site(stack, 0, "mlp")].cost // hidden - 1
        assert mixed.modules[stack, "mlp"].at(1) == hidden * (2 * inputs + 4)
        assert mixed.modules[stack, "attention"].at(1) == 2 * half.layout[nv.Site(stack, 0, "attention")].cost
    assert isinstance(half.family, T5Family)
    plan = nv.allocate(scored(half.layout), sparsity=0.3, gamma=1.0, budget="bytes", costs=mixed)
    assert plan.predicted is not None and plan.predicted.unit == "bytes" and plan.achieved <= 0.3


def test_a_table_is_measured_once_for_a_shape(
    make_lm: Callable[..., LM], quick: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"phase": "prefill", "batch": 1, "length": 8}
    first = cached_costs(make_lm(seed=1), **how)
    again = cached_costs(make_lm(seed=2), **how)  # other weights
    assert quick["prefill"] == 1 and again.to_json() == first.to_json()
    cached_costs(make_lm(kv_heads=4), **how)
    cached_costs(make_lm(seed=1), **how | {"length": 9})
    assert quick["prefill"] == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    cached_costs(make_lm(seed=1), **how)
    assert quick["prefill"] == 4


def test_a_run_measures_keeps_and_uses_its_costs(recipe: Recipe, quick: Counter[str]) -> None:
    run = Store().create(recipe)
    compute_steps(run, until="prune")
    run = Store().open(run.id)
    tables, plan, scores = run.costs(), run.plan(), run.saliency()
    assert tables is not None and plan is not None and scores is not None
    table = tables.find("decode", 1, 8)
    assert table is not None and quick == {"decode": 1}
    assert plan.budget == "latency" and plan.predicted is not None and 0 <= 0.3 - plan.achieved < 0.02
    by_hand = nv.allocate(scores, sparsity=0.3, gamma=1.0, multiple_of=4, budget="latency", costs=table)
    assert by_hand.to_json() == plan.to_json()
    again = Store().create(recipe.change("allocation", sparsity=0.2), parent=run)
    compute_steps(again, until="allocation")
    assert quick == {"decode": 1} and Store().open(again.id).costs() is not None
    assert "of the decode time (1 x 8 tokens)" in setting(recipe)


def test_rounds_count_what_is_left_of_the_time(recipe: Recipe, quick: Counter[str]) -> None:
    workspace = Workspace(recipe.change("allocation", rounds=2, sparsity=0.4))
    plan, table = workspace.plan(), workspace.costs()
    assert table is not None and plan.predicted is not None
    assert 0 <= 0.4 - plan.achieved < 0.04 and plan.achieved == pytest.approx(
        table.predict(plan.layout, plan.widths).share
    )
    assert quick == {"decode": 1}


def test_the_task_measures_both_phases_and_keeps_earlier_ones(recipe: Recipe, quick: Counter[str]) -> None:
    run = Store().create(recipe)
    with pytest.raises(RunError, match="no model"):
        check_task(run, "costs", {})
    compute_steps(run, until="model")
    with pytest.raises(RunError, match="positions"):
        check_task(run, "costs", {"length": 1_000})
    result = execute(run, "costs", {"length": 8, "repeats": 2}, Reporter())
    assert [table.protocol["phase"] for table in CostTables.from_json(result).tables] == ["prefill", "decode"]
    execute(run, "costs", {"length": 16, "phases": ["decode"]}, Reporter())
    tables = run.costs()
    assert tables is not None and len(tables.tables) == 3 and quick == {"prefill": 1, "decode": 2}


def test_the_command_line_measures_and_allocates(
    recipe: Recipe, tmp_path: Path, quick: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "costs.json"
    asked = ["costs", recipe.model.name, "--device", "cpu", "--length", "8", "--output", str(file)]
    assert cli.main([*asked, "--phase", "decode", "--phase", "prefill"]) == cli.FAILED
    assert "one phase" in capsys.readouterr().err
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert "prefill" in said and "decoder mlp" in said and "Outside the layers" in said
    lm = load_model(recipe.model.name, device="cpu")
    scores = nv.score(lm, None, criterion="magnitude")
    (tmp_path / "scores.npz").write_bytes(scores.to_bytes())
    plan = str(tmp_path / "plan.json")
    words = ["allocate", "--saliency", str(tmp_path / "scores.npz"), "--budget", "latency", "--gamma", "1"]
    words += ["--sparsity", "0.3", "--output", plan]
    assert cli.main(words) == cli.FAILED and "needs a cost table" in capsys.readouterr().err
    assert cli.main([*words, "--costs", str(tmp_path / "scores.npz")]) == cli.FAILED
    capsys.readouterr()
    assert cli.main([*words, "--costs", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predicted"]["dense"] > 0
    made = PruningPlan.from_json(json.loads(Path(plan).read_text(encoding="utf-8")))
    assert made.budget == "latency" and made.predicted is not None


def test_the_code_of_a_run_does_the_same(recipe: Recipe) -> None:
    code = python_code(recipe, "allocation")
    assert 'costs = nv.measure_costs(lm, phase="decode", batch=1, length=8)' in code
    assert 'budget="latency"' in code and "costs=costs" in code
    compile(code, "code", "exec")
    assert "--budget latency --budget-phase decode --budget-length 8" in command_line(recipe, "allocation")
    by_bytes = recipe.change("allocation", budget="bytes")
    assert "costs=nv.byte_costs(lm)" in python_code(by_bytes, "allocation")


def test_a_what_if_uses_the_costs_of_the_run(recipe: Recipe, quick: Counter[str]) -> None:
    run = Store().create(recipe.change("allocation", budget="parameters"))
    compute_steps(run, until="saliency")
    choice = recipe.allocation.to_json()
    with pytest.raises(PlanError, match="needs a cost table"):
        check_task(run, "what-if", choice)
    execute(run, "costs", {"length": 8, "phases": ["decode"]}, Reporter())
    check_task(run, "what-if", choice)


def test_a_measured_table_predicts_the_order_of_sizes(tiny_lm: LM) -> None:
    """On a real clock: twenty times the units take more time."""
    table = measure_costs(tiny_lm, length=64, batch=4, repeats=3)
    mlp = table.modules["decoder", "mlp"]
    assert mlp.sizes == (8, 16, 24, 32, 40, 48) and all(cost > 0 for cost in mlp.costs)
    widths = {site: place.units for site, place in tiny_lm.layout.items()}
    assert table.total(widths) > table.prunable(widths) > 0
    assert list(itertools.chain(table.blocks)) == ["decoder"]
