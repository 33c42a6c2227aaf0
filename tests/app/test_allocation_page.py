"""The Allocation page: which rule shares a sparsity out, equal widths, and plans without whole layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard.replan import draft_plan
from nirvana.layout import KV_GROUP, NEURON
from nirvana.loss_curves import LEVELS, Sensitivity, Shift
from nirvana.models.families.t5 import T5Family
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import SMALL_T5, fill, keys_on, open_tab

Start = Callable[..., AppTest]


def open_page(start: Start, run: Run) -> AppTest:
    app = start(run).run()
    return app.switch_page("pages/allocation.py").run()


def scored_by(store: Store, criterion: str) -> Run:
    """A run whose scores are of that criterion."""
    from dataclasses import replace

    run = fill(store.create(Recipe().change("saliency", criterion=criterion), name=criterion))
    scores = run.saliency()
    assert scores is not None
    run.put("saliency", replace(scores, criterion=criterion), device="cpu", dtype="float32", seconds=1.0)
    return run


def test_equal_widths_are_a_choice_of_the_page(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    app.toggle(key="allocation.uniform").set_value(True).run()
    assert not app.exception
    assert any("Every layer keeps" in note.value for note in app.info)
    code = "\n".join(block.value for block in app.code)
    assert "uniform=True" in code and "--uniform" in code


def test_equal_widths_and_protected_layers_exclude_each_other(start: Start, filled: Run) -> None:
    app = open_page(start, filled)
    app.multiselect(key="allocation.protected").set_value([0])
    app.toggle(key="allocation.uniform").set_value(True).run()
    assert not app.exception
    assert any("protected layer" in error.value for error in app.error)


@pytest.mark.parametrize(
    ("criterion", "words", "uses_gamma"),
    [("nirvana", "shared allocation", True), ("magnitude", "one ratio in every layer", False)],
)
def test_the_page_says_what_published_means(
    criterion: str, words: str, uses_gamma: bool, start: Start, store: Store
) -> None:
    app = open_page(start, scored_by(store, criterion))
    app.segmented_control(key="allocation.method").set_value("published").run()
    assert not app.exception
    assert any(words in caption.value for caption in app.caption)
    assert app.select_slider(key="allocation.gamma").disabled is not uses_gamma
    assert ("allocation.rates" in keys_on(open_tab(app, "gamma"))) is uses_gamma
    assert 'method="published"' in "\n".join(block.value for block in app.code)


def test_whole_layers_can_go(start: Start, store: Store) -> None:
    run = scored_by(store, "block-influence")
    app = open_page(start, run)
    app.segmented_control(key="allocation.method").set_value("published")
    app.slider(key="allocation.sparsity").set_value(0.5).run()
    assert not app.exception
    assert any("Removed layers" in note.value for note in app.info)
    app.switch_page("pages/prune.py").run()
    assert not app.exception
    saliency = run.saliency()
    assert saliency is not None
    choice = Recipe().change("allocation", sparsity=0.5, method="published").allocation
    plan = draft_plan(saliency, choice).plan
    assert plan is not None and len(plan.removed_layers) == 2
    assert plan.rate(KV_GROUP) == plan.rate(NEURON) == 0.5


def test_t5s_self_attentions_keep_the_same_heads(start: Start, store: Store) -> None:
    app = open_page(start, fill(store.create(Recipe()), SMALL_T5, family=T5Family()))
    app.select_slider(key="allocation.gamma").set_value(1.0)
    app.slider(key="allocation.sparsity").set_value(0.4)
    app.toggle(key="allocation.uniform").set_value(True).run()
    assert not app.exception
    assert sum(note.value.count("keep the same heads") for note in app.info) == 2  # of the encoder, of the decoder
    assert "share one position bias" in str(app.toggle(key="allocation.uniform").help)


def test_a_scan_points_at_layers_to_protect(start: Start, store: Store, filled: Run) -> None:
    scores = filled.saliency()
    assert scores is not None
    app = open_tab(open_page(start, filled), "Loss curves")
    assert not app.exception and "allocation.scan" not in keys_on(app)
    shifts = {site: (Shift(float(site.layer), 0.01, 1, place.units),) for site, place in scores.layout.items()}
    protocol = {"levels": [0.2], "criterion": "nirvana", "samples": 4, "length": 8, "dtype": "float32", "device": "cpu"}
    filled.attach("sensitivity", Sensitivity(shifts, protocol))
    app.run()
    assert "allocation.scan" in keys_on(app) and app.button(key="allocation.scan.run").disabled
    app.number_input(key="allocation.scan.layers").set_value(1).run()
    app.button(key="allocation.scan.protect").click().run()
    assert not app.exception
    assert app.multiselect(key="allocation.protected").value == [max(site.layer for site in scores.layout)]


def test_a_scan_of_any_rate_is_shown(start: Start, filled: Run) -> None:
    scores = filled.saliency()
    assert scores is not None
    protocol = {
        "levels": [0.01],
        "criterion": "nirvana",
        "samples": 4,
        "length": 8,
        "dtype": "float32",
        "device": "cpu",
    }
    filled.attach("sensitivity", Sensitivity({site: (Shift(0.1, 0.01, 1, 9),) for site in scores.layout}, protocol))
    app = open_tab(open_page(start, filled), "Loss curves")
    assert not app.exception and app.slider(key="allocation.scan.rate").value == 0.05


def test_loss_curves_make_the_measured_plan(start: Start, filled: Run) -> None:
    scores = filled.saliency()
    assert scores is not None
    app = open_tab(open_page(start, filled), "Loss curves")
    app.segmented_control(key="allocation.method").set_value("measured").run()
    assert not app.exception and any("needs loss curves" in error.value for error in app.error)
    assert not app.button(key="allocation.curves.run").disabled
    curves = {
        site: tuple(Shift(count * 0.01, 0.001, count, place.units) for count in range(1, place.units))
        for site, place in scores.layout.items()
    }
    protocol = {"levels": list(LEVELS), "criterion": scores.criterion, "scores": scores.hash, "samples": 4, "length": 8}
    protocol |= {"compensation": {"method": "least_squares"}, "dtype": "float32", "device": "cpu"}
    filled.attach("sensitivity", Sensitivity(curves, protocol))
    app.run()
    assert not app.exception and not app.error
    assert {"allocation.curves", "allocation.scan", "allocation.scan.level"} <= keys_on(app)
    assert app.button(key="allocation.curves.run").disabled
    assert any("as with a gamma of" in note.value for note in app.info)
    assert "allocation.rates" not in keys_on(app)
    app.select_slider(key="allocation.scan.level").set_value(0.5).run()
    assert not app.exception
