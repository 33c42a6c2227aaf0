"""The Prune page's compensation: chosen, explained, computed by the real worker, and said beside the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.runs.recipe import CalibrationChoice, PruneChoice, Recipe, SaliencyChoice
from nirvana.runs.store import Run, Store
from tests.app.conftest import PLACE
from tests.app.test_journey import wait

Start = Callable[..., AppTest]
RECORD = {
    "method": "least_squares",
    "regularisation": 0.01,
    "tokens": {"decoder": 24_576},
    "sets": [{"source": "python-docs", "seed": 1, "samples": 96, "length": 256, "hash": "ab" * 32}],
    "statistics_hash": "cd" * 32,
    "seconds": 12.5,
    "cached": False,
}


def prune_page(app: AppTest) -> AppTest:
    app.switch_page("pages/prune.py").run()
    assert not app.exception
    return app


def draft(app: AppTest) -> PruneChoice:
    choice: PruneChoice = app.session_state["nirvana.draft"].prune
    return choice


def test_a_compensation_is_a_choice_of_the_recipe(start: Start, filled: Run) -> None:
    app = prune_page(start(filled))
    assert app.button(key="prune.run").label == "Pruned"
    assert not app.number_input
    app.radio(key="prune.compensation").set_value("least_squares").run()
    assert draft(app) == PruneChoice(compensation="least_squares")
    assert app.button(key="prune.run").label == "Prune", "another model is asked for"
    app.number_input(key="prune.samples").set_value(7).run()
    app.number_input(key="prune.length").set_value(33).run()
    app.number_input(key="prune.seed").set_value(5).run()
    assert draft(app) == PruneChoice(compensation="least_squares", samples=7, length=33, seed=5)
    shown = [block.value for block in app.code]
    assert any("--compensation least_squares --statistics-samples 7" in text for text in shown)
    assert any('compensation="least_squares", statistics=statistics' in text for text in shown)
    app.radio(key="prune.compensation").set_value("none").run()
    assert not app.exception and not app.number_input
    assert draft(app) == PruneChoice(compensation="none", samples=7, length=33, seed=5)


def test_a_seed_beyond_what_a_browser_keeps_is_shown_at_its_limit(start: Start, store: Store, filled: Run) -> None:
    large = PruneChoice(compensation="bias", seed=1 << 62)
    app = prune_page(start(store.create(filled.recipe.with_values(prune=large), parent=filled)))
    assert not app.exception
    assert draft(app).seed == 2**53 - 1


def test_what_was_compensated_is_said(start: Start, filled: Run) -> None:
    summary = filled.pruned()
    assert summary is not None
    filled.put("prune", replace(summary, compensation=RECORD), **PLACE)
    said = " ".join(text.value for text in prune_page(start(filled)).caption).replace("\\", "")
    assert "least squares, from 24,576 tokens (96 samples of python-docs, seed 1); regularisation 0.01" in said
    assert "collected in 12.5 s" in said


@pytest.mark.usefixtures("worker_here")
def test_the_worker_compensates(start: Start, store: Store, sample_text: Path, tiny_folder: Path) -> None:
    recipe = Recipe(
        calibration=CalibrationChoice(corpus=str(sample_text), candidates=1, samples=4, length=24),
        saliency=SaliencyChoice(criterion="magnitude"),
        prune=PruneChoice(compensation="none", samples=6, length=40),
    ).change("model", name=str(tiny_folder), device="cpu")
    app = start(store.create(recipe, name="Compensated"))
    app.switch_page("pages/saliency.py").run()
    app.button(key="saliency.run").click().run()
    assert wait(app).status == "done"
    app.switch_page("pages/prune.py").run()
    app.radio(key="prune.compensation").set_value("bias").run()
    app.button(key="prune.run").click().run()
    assert wait(app).status == "done"
    assert any("bias, from 240 tokens" in text.value.replace("\\", "") for text in app.caption)
    summary = store.open(app.query_params["run"]).pruned()
    assert summary is not None and summary.compensation["method"] == "bias"
