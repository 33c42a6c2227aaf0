"""Several rounds on the Allocation page: a preview until the plan is made, then the run's plan."""

from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from nirvana.dashboard.state import DRAFT
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import fill, keys_on

Start = Callable[..., AppTest]


def opened(start: Start, run: Run) -> AppTest:
    app = start(run)
    app.switch_page("pages/allocation.py").run()
    assert not app.exception
    return app


def test_a_choice_of_several_rounds_is_a_preview(start: Start, filled: Run) -> None:
    app = opened(start, filled)
    assert "allocation.rounds.run" not in keys_on(app)
    app.number_input(key="allocation.rounds").set_value(2).run()
    assert not app.exception and app.session_state[DRAFT].allocation.rounds == 2
    assert "allocation.rounds.run" in keys_on(app) and app.slider(key="allocation.normalisation").disabled
    assert any("Preview of one round" in each.value for each in app.markdown)


def test_the_plan_of_several_rounds_is_the_runs(start: Start, store: Store) -> None:
    run = fill(store.create(Recipe().change("allocation", rounds=2, sparsity=0.2), name="Rounds"))
    plan = run.plan()
    assert plan is not None
    app = opened(start, run)
    assert "allocation.rounds.run" not in keys_on(app)
    assert f"{plan.sparsity:.3%}" in [metric.value for metric in app.metric]
