"""A budget in time on the Allocation page, and the predicted speed-up on the Compare page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.costs import PHASES, CostTables
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import fill, keys_on
from tests.app.test_compare_page import submitted, words
from tests.app.test_speed_panel import open_speed, put_speed
from tests.costs import linear

__all__ = ["submitted"]  # a fixture
Start = Callable[..., AppTest]


def put_costs(run: Run, **protocol: Any) -> None:
    """Attach costs of both phases, where attention takes three times as long as by its parameters."""
    scores = run.saliency()
    assert scores is not None
    made = [linear(scores.layout, group=36e-5, neuron=1e-6, phase=phase, **protocol) for phase in PHASES]
    run.attach("costs", CostTables(tuple(made)))


def open_allocation(start: Start, run: Run) -> AppTest:
    return start(run).run().switch_page("pages/allocation.py").run()


def by_time(app: AppTest) -> AppTest:
    app.select_slider(key="allocation.gamma").set_value(1.0)
    app.segmented_control(key="allocation.budget").set_value("latency").run()
    return app


def metrics(app: AppTest) -> dict[str, str]:
    return {each.label: str(each.value) for each in app.metric}


def test_costs_are_measured_once_where_they_are_missing(
    start: Start, filled: Run, submitted: list[dict[str, Any]]
) -> None:
    app = by_time(open_allocation(start, filled))
    assert not app.exception and "needs the costs of prefill" in words(app)
    assert "allocation.kept.decoder" not in keys_on(app)
    app.selectbox(key="allocation.budget_phase").set_value("decode")
    app.number_input(key="allocation.budget_length").set_value(64).run()
    app.button(key="allocation.costs.run").click().run()
    wanted = {"phases": ["decode"], "batch": 1, "length": 64}
    assert submitted == [{"run_id": filled.id, "task": "costs", **wanted}]


def test_a_budget_in_time_makes_another_plan(start: Start, filled: Run) -> None:
    put_costs(filled)
    app = open_allocation(start, filled)
    app.select_slider(key="allocation.gamma").set_value(1.0).run()
    before = metrics(app)
    assert "Time removed" not in before
    app = by_time(app)
    assert not app.exception and "allocation.costs.run" not in keys_on(app)
    after = metrics(app)
    assert float(after["Time removed"].rstrip("%")) == pytest.approx(20, abs=1.5)
    assert float(after["Predicted speed-up"].split()[0]) > 1
    assert after["Achieved sparsity"] != before["Achieved sparsity"]
    assert any("times as fast" in note.value for note in app.info)
    assert any("Time by measured costs" in caption.value for caption in app.caption)
    code = "\n".join(block.value for block in app.code)
    assert "nv.measure_costs" in code and "--budget latency" in code
    app.segmented_control(key="allocation.budget").set_value("bytes").run()
    assert not app.exception and "Time removed" not in metrics(app)
    assert metrics(app)["Achieved sparsity"] == before["Achieved sparsity"]
    for page in ("prune", "saliency", "unit"):
        app = by_time(open_allocation(start, filled))
        assert not app.switch_page(f"pages/{page}.py").run().exception, page


def test_a_recipe_by_time_opens_with_its_budget(start: Start, store: Store) -> None:
    chosen = Recipe().change("allocation", budget="latency", budget_phase="decode", gamma=1.0)
    run = store.create(chosen, name="Timed")
    fill(run)
    put_costs(run)
    app = open_allocation(start, run)
    assert not app.exception and app.segmented_control(key="allocation.budget").value == "latency"
    assert app.selectbox(key="allocation.budget_phase").value == "decode"
    assert "Time removed" in metrics(app)


def test_a_sparsity_that_time_does_not_allow_is_refused(start: Start, filled: Run) -> None:
    put_costs(filled)
    app = by_time(open_allocation(start, filled))
    app.slider(key="allocation.sparsity").set_value(0.95).run()
    assert not app.exception and any("out of reach" in error.value for error in app.error)
    app.button(key="allocation.use_reachable").click().run()
    assert not app.exception and not app.error and "Time removed" in metrics(app)


def test_the_speed_panel_sets_predicted_beside_measured(
    start: Start, filled: Run, submitted: list[dict[str, Any]]
) -> None:
    put_speed(filled)
    app = open_speed(start, filled)
    assert "predicted" not in words(app)
    app.button(key="compare.costs.run").click().run()
    assert submitted == [{"run_id": filled.id, "task": "costs", "batch": 1, "length": 64}]
    put_costs(filled, length=64)
    app = open_speed(start, filled)
    plan, found = filled.plan(), filled.costs()
    assert not app.exception and plan is not None and found is not None
    assert "compare.costs.run" not in keys_on(app)
    table = found.find("prefill", 1, 64)
    assert table is not None
    ratio = table.predict(plan.layout, plan.widths).ratio
    assert f"reads 1.50 times as fast as dense (predicted {ratio:.2f}, ideal" in words(app).replace("\\", "")


def test_costs_of_other_threads_predict_nothing(start: Start, filled: Run) -> None:
    put_speed(filled)
    put_costs(filled, length=64, threads=1)
    app = open_speed(start, filled)
    assert not app.exception and "predicted" not in words(app) and "compare.costs.run" in keys_on(app)
