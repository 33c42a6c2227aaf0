"""The allocation search on the Allocation page: a search shown as it stands, and its best plan in the recipe."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.allocation.allocate import allocate
from nirvana.allocation.exchanges import Exchange, exchanged
from nirvana.dashboard.state import DRAFT
from nirvana.layout import MLP, Site
from nirvana.plan import PruningPlan
from nirvana.reporting.allocation_search import command_line, python_code
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import Store
from nirvana.studies.allocation_search import SearchRequest
from nirvana.studies.allocation_steps import SearchStep
from tests.app.conftest import keys_on, open_tab, page_tabs
from tests.journals import write_allocation_search

Start = Callable[..., AppTest]
GROWN, SHRUNK = Site("decoder", 0, MLP), Site("decoder", 1, MLP)
STEPS = (
    SearchStep(0, (), 0.5, (0.5, 0.6, 0.7, 0.6), True),
    SearchStep(1, (Exchange(SHRUNK, GROWN, 8),), 0.7),
    SearchStep(2, (Exchange(GROWN, SHRUNK, 8),), 0.4, (0.41, 0.5, 0.61, 0.5), True),
    SearchStep(3, failure="broken on purpose"),
)


@pytest.fixture
def plan(filled: Run) -> PruningPlan:
    scores, choice = filled.saliency(), filled.recipe.allocation
    assert scores is not None
    return allocate(scores, **choice.one_round)


def opened(start: Start, run: Run) -> AppTest:
    app = start(run)
    app.switch_page("pages/allocation.py").run()
    assert not app.exception
    return open_tab(app, "Search") if page_tabs(app)[0] else app


def words(app: AppTest) -> str:
    return " ".join(each.value for each in [*app.markdown, *app.caption])


def test_before_a_search_only_its_start_is_offered(start: Start, filled: Run) -> None:
    app = opened(start, filled)
    assert app.button(key="allocation.search.run").label == "Search"
    assert "allocation.search.kl" not in keys_on(app)


def test_results_on_both_probes_and_the_best_plan_in_the_recipe(
    start: Start, filled: Run, plan: PruningPlan, store: Store
) -> None:
    write_allocation_search(filled, plan, STEPS)
    app = opened(start, filled)
    assert {"allocation.search.kl", "allocation.search.moved.decoder", "allocation.search.failures"} <= keys_on(app)
    text = words(app)
    assert "In 3 steps KL fell by 20.0% on the probe that chooses, and fell by 15.8% on held-out text." in text
    assert "better on held-out text: the 95 % interval excludes zero" in text
    assert "2 of 8 modules have another width; most of all, the MLP of layer 0 keeps 8 neurons more" in text
    assert "Continue with step 4" in app.button(key="allocation.search.run").label
    app.button(key="allocation.search.use").click().run()
    assert not app.exception
    widths = exchanged({site: len(kept) for site, kept in plan.items()}, STEPS[2].exchanges)
    expected = tuple(f"{site.key}={widths[site]}" for site in (GROWN, SHRUNK))
    assert "widths of **2 modules** replace the rule's" in words(app)
    assert app.session_state[DRAFT].allocation.widths == expected
    app.button(key="allocation.widths.clear").click().run()
    assert not app.exception and "replace the rule's" not in words(app)


def test_a_search_is_shown_before_the_run_has_scores(
    start: Start, filled: Run, plan: PruningPlan, store: Store
) -> None:
    run = store.create(filled.recipe.change("calibration", seed=5), name="Searched")
    assert "allocation.search.kl" not in keys_on(opened(start, run))
    write_allocation_search(run, plan, STEPS)
    app = opened(start, run)
    assert {"allocation.search.kl", "allocation.search.use"} <= keys_on(app)
    app.button(key="allocation.search.use").click().run()
    assert not app.exception and len(app.session_state[DRAFT].allocation.widths) == 2


def test_a_search_that_only_fits_its_probe_is_named(start: Start, filled: Run, plan: PruningPlan) -> None:
    worse = SearchStep(1, (Exchange(GROWN, SHRUNK, 8),), 0.4, (0.55, 0.66, 0.76, 0.67), True)
    write_allocation_search(filled, plan, (STEPS[0], worse))
    text = words(opened(start, filled))
    assert "rose by 10.0% on held-out text" in text and "Keep the start." in text


def test_the_code_searches_as_the_button_does() -> None:
    recipe = Recipe().change("prune", compensation="least_squares").change("allocation", gamma=4.0)
    request = SearchRequest(minutes=7.0, seed=3)
    script = python_code(recipe, request)
    how = 'compensation="least_squares", statistics=statistics'
    assert f"nv.search_allocation(lm, scores, plan, text, minutes=7, seed=3, {how})" in script
    assert f"small = nv.prune(lm, found.plan, {how})" in script and script.count("nv.prune(") == 1
    compile(script, "script", "exec")
    assert command_line(recipe, request).startswith("nirvana search-allocation --minutes 7 --search-seed 3 --model")
