"""Edits of the plan by hand on the Allocation and Unit pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.allocation.allocate import allocate
from nirvana.allocation.edits import Edits, edit_plan
from nirvana.dashboard.panels.what_if import unit_table
from nirvana.dashboard.state import DRAFT
from nirvana.evaluation.plan_trials import PlanTrials
from nirvana.jobs.tasks.what_if import WhatIf, trial
from nirvana.layout import MLP, Site
from nirvana.models.families.t5 import T5Family
from nirvana.plan import PruningPlan
from nirvana.runs.recipe import AllocationChoice, Recipe
from nirvana.runs.store import Run, Store
from nirvana.saliency.scores import Saliency
from tests.app.conftest import SMALL_T5, fill, open_tab, tables

Start = Callable[..., AppTest]
SITE = Site("decoder", 2, MLP)


def opened(start: Start, run: Run, page: str = "allocation", **values: str) -> AppTest:
    app = start(run)
    for name, value in values.items():
        app.query_params[name] = value
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    return open_tab(app, "What if") if page == "allocation" else app


def parts(run: Run) -> tuple[Saliency, PruningPlan]:
    scores, plan = run.saliency(), run.plan()
    assert scores is not None and plan is not None
    return scores, plan


def edits_of(app: AppTest) -> tuple[str, ...]:
    found: tuple[str, ...] = app.session_state[DRAFT].allocation.edits
    return found


def metric(app: AppTest, label: str) -> Any:
    return next(each for each in reversed(app.metric) if each.label == label)


def test_a_unit_is_removed_kept_and_left_to_the_rule(start: Start, filled: Run) -> None:
    scores, plan = parts(filled)
    unit = int(plan[SITE][0])
    app = opened(start, filled, layer="2", unit=f"mlp.{unit}")
    before = metric(app, "Parameters").value
    app.button(key="allocation.edit").click().run()
    assert edits_of(app) == (f"remove decoder.2.mlp.{unit}",)
    edited = edit_plan(plan, edits_of(app))
    change = edited.pruned_layout.parameters - plan.pruned_layout.parameters
    assert metric(app, "Parameters").delta == f"{change:+,}" and change < 0 and before
    assert f"{edited.sparsity:.2%}" == metric(app, "Sparsity").value
    assert any("1 unit removed" in each.value for each in app.info)
    assert app.button(key="allocation.edit").label == "Leave it to the rule"
    app.button(key="allocation.edit").click().run()
    assert edits_of(app) == () and metric(app, "Parameters").value == before
    gone = next(unit for unit in range(scores.layout[SITE].units) if unit not in plan[SITE])
    app = opened(start, filled, "unit", layer="2", unit=f"mlp.{gone}")
    app.button(key="unit.edit").click().run()
    assert edits_of(app) == (f"keep decoder.2.mlp.{gone}",)


def test_layers_are_kept_and_removed(start: Start, filled: Run) -> None:
    _, plan = parts(filled)
    app = opened(start, filled, layer="1")
    app.button(key="allocation.edit.layer.remove").click().run()
    assert edits_of(app) == ("remove decoder.1",)
    assert metric(app, "Sparsity").value == f"{edit_plan(plan, edits_of(app)).sparsity:.2%}"
    assert any("The layer is removed." in each.value for each in app.caption)
    app.button(key="allocation.edit.layer.keep").click().run()
    assert edits_of(app) == ("keep decoder.1",)
    app.multiselect(key="allocation.edit.words").set_value([]).run()
    assert edits_of(app) == ()
    app.button(key="allocation.edit.layer.keep").click().run()
    app.button(key="allocation.edit.clear").click().run()
    assert edits_of(app) == ()


def test_an_impossible_edit_says_why_and_can_be_undone(start: Start, filled: Run) -> None:
    app = opened(start, filled, layer="1")
    for layer in range(4):
        app.select_slider(key="allocation.edit.layer").set_value(layer).run()
        app.button(key="allocation.edit.layer.remove").click().run()
    assert any("at least one layer" in each.value for each in app.error)
    app.button(key="allocation.edit.clear").click().run()
    assert not app.error and edits_of(app) == ()


def test_the_table_shows_what_stays() -> None:
    from tests.unit.test_allocation import model, scores

    saliency = scores(model())
    plan = allocate(saliency, sparsity=0.3)
    table = unit_table(saliency, plan, SITE, Edits().with_unit(SITE, 7, True).with_unit(SITE, 8, False))
    kept = set(table.loc[table["kept"], "unit"])
    assert kept == {*map(int, plan[SITE]), 7} - {8}
    assert list(table["rank"]) == sorted(table["rank"], reverse=True)
    assert unit_table(saliency, plan, SITE, Edits().with_layer(("decoder", 2), True))["kept"].all()


def test_the_button_measures_the_plan_of_the_controls(
    start: Start, filled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued = []
    monkeypatch.setattr("nirvana.dashboard.state.start_task", lambda task, **values: queued.append((task, values)))
    app = opened(start, filled, layer="1")
    app.button(key="allocation.edit.layer.remove").click().run()
    app.button(key="allocation.edit.measure").click().run()
    ((task, values),) = queued
    assert task == WhatIf.name
    assert AllocationChoice.from_json(values) == filled.recipe.allocation.with_values(edits=("remove decoder.1",))


def test_measured_plans_are_listed_with_the_verdict(start: Start, filled: Run) -> None:
    scores, plan = parts(filled)
    edited = edit_plan(plan, ["remove decoder.1"])
    made = [
        trial(scores, each, None, filled.recipe.prune, kl)
        for each, kl in ((plan, (0.1, 0.2, 0.15)), (edited, (0.3, 0.41, 0.35)))
    ]
    filled.attach("plans", PlanTrials(tuple(made), {"corpus": "python-docs", "samples": 3, "length": 16}))
    app = opened(start, filled, layer="1")
    (table,) = tables(app, "measured KL")
    assert table["edits"].tolist() == ["remove decoder.1", "none"]
    assert any("so they lose" in each.value for each in app.markdown)
    assert app.button(key="allocation.edit.measure").disabled, "the rule's plan is measured"


def test_plans_that_cannot_be_edited_say_so(start: Start, store: Store) -> None:
    uniform = fill(store.create(Recipe().change("allocation", uniform=True), name="Equal"))
    app = opened(start, uniform)
    assert any("cannot be edited" in each.value for each in app.caption)
    encoder = fill(store.create(Recipe(), name="T5"), SMALL_T5, family=T5Family())
    app = opened(start, encoder, stack="encoder", layer="1")
    assert app.button(key="allocation.edit.layer.remove").disabled
