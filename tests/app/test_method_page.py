"""The Method page: its pictures follow the sliders and the open run, and its buttons start the measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.calibration.sets import CalibrationSelection
from nirvana.dashboard.panels import losses
from nirvana.models.families.t5 import T5Family
from nirvana.reporting.quality import read_quality
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.ablations import ablations, study_of_kernel
from tests.app.conftest import SMALL_T5, fill, keys_on, open_tab, page_tabs
from tests.app.test_compare_page import scale_pruned, words
from tests.app.test_sweep_page import put_sweep
from tests.journals import write_kernel, write_matrix
from tests.unit.test_figures_matrix import make

Start = Callable[..., AppTest]


def open_method(start: Start, run: Run | None = None, tab: str = "Kernel") -> AppTest:
    app = start(run)
    app.switch_page("pages/method.py").run()
    if tab != "Kernel":
        open_tab(app, tab)
    assert not app.exception
    return app


def figure(app: AppTest, key: str) -> Any:
    return json.loads(app.get_by_key(key).proto.spec)


def test_each_tab_of_the_example_shows_its_picture(start: Start) -> None:
    app = open_method(start)
    pictures = {
        "Kernel": "method.kernel",
        "One weight": "method.removal",
        "Unit": "method.unit",
        "KV groups": "method.groups",
        "First order": "method.ablation",
        "gamma": "method.gamma",
        "Theorem": "method.theorem",
        losses.LABEL: "method.losses",
    }
    assert set(page_tabs(app)[1]) == {*pictures, "Text by KL", "Glossary"}
    for tab, key in pictures.items():
        open_tab(app, tab)
        assert not app.exception and key in keys_on(app), tab


def test_the_sliders_move_the_network_of_both_screens(start: Start) -> None:
    app = open_method(start)
    before = words(app)
    app.slider(key="method.kernel.w1").set_value(-2.0).run()
    assert words(app) != before
    open_tab(app, "One weight")
    assert app.slider(key="method.removal.w1").value == -2.0
    app.slider(key="method.removal.w2").set_value(0.5).run()
    open_tab(app, "Kernel")
    assert (app.slider(key="method.kernel.w1").value, app.slider(key="method.kernel.w2").value) == (-2.0, 0.5)


def test_units_and_groups_are_those_of_the_open_model(start: Start, filled: Run) -> None:
    app = open_method(start, filled, "Unit")
    scores = filled.saliency()
    assert scores is not None
    app.segmented_control(key="method.unit.kind").set_value("neuron").run()
    app.select_slider(key="method.unit.layer").set_value(2).run()
    app.number_input(key="method.unit.mlp").set_value(95).run()
    site = next(each for each in scores.layout if (each.layer, each.module) == (2, "mlp"))
    assert f"{float(scores[site][95]):.3g}" in words(app) and "of 384 neurons" in words(app)
    assert "Neuron 95 is 192 weights" in words(app)
    assert (app.query_params["layer"], app.query_params["unit"]) == ("2", "mlp.95"), "the selection of all pages"
    assert "4 KV groups a layer" in words(open_method(start, filled, "KV groups"))


def test_gamma_has_sliders_of_its_own_and_says_why_it_jumps(start: Start, filled: Run) -> None:
    app = open_method(start, filled, "gamma")
    assert app.slider(key="method.gamma.sparsity").value == filled.recipe.allocation.sparsity
    app.select_slider(key="method.gamma.gamma").set_value(1.0).run()
    assert "gamma 1 removes" in words(app) and "steps of 6.25%" in words(app)
    app.switch_page("pages/allocation.py").run()
    assert app.select_slider(key="allocation.gamma").value == filled.recipe.allocation.gamma


def test_an_encoder_decoder_has_all_screens(start: Start, store: Store) -> None:
    run = fill(store.create(Recipe(), name="T5"), SMALL_T5, family=T5Family())
    app = open_method(start, run)
    for tab in page_tabs(app)[1]:
        open_tab(app, tab)
        assert not app.exception, tab
    assert "MHA, this model" in json.dumps(figure(open_tab(app, "KV groups"), "method.groups"))


def test_what_was_not_measured_is_offered(start: Start, filled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_method(start, filled, "First order")
    assert "Nothing is measured yet" in words(app) and "method.ablation" not in keys_on(app)
    started: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        "nirvana.dashboard.state.start_task", lambda task, **arguments: started.append((task, arguments))
    )
    app.number_input(key="method.ablation.count").set_value(30).run()
    app.button(key="method.ablation.run").click().run()
    assert started == [("ablation", {"count": 30})]
    monkeypatch.setattr(
        "nirvana.dashboard.state.start_study", lambda task, recipe, **arguments: started.append((task, arguments))
    )
    app = open_method(start, filled, "Theorem")
    app.multiselect(key="method.theorem.list").set_value(["nirvana", "random"]).run()
    app.button(key="method.theorem.run").click().run()
    assert started[-1][0] == "kernel" and list(started[-1][1]["criteria"]) == ["nirvana", "random"]


def test_a_run_without_scores_cannot_remove_units(start: Start, store: Store) -> None:
    app = open_method(start, store.create(Recipe(), name="New"), "First order")
    assert app.button(key="method.ablation.run").disabled
    assert "needs the scores of the Saliency step" in words(app)


def test_the_runs_own_measurements_are_shown(start: Start, filled: Run) -> None:
    filled.attach("ablation", ablations())
    write_kernel(filled.folder, study_of_kernel())
    app = open_method(start, filled, "First order")
    assert "closely for neurons, roughly for KV groups" in words(app)
    app.radio(key="method.ablation.pair").set_value("score").run()
    assert "The score predicts KL" in words(app)
    open_tab(app, "Theorem")
    assert "does not follow the pruned saliency alone" in words(app)
    app.radio(key="method.theorem.part").set_value("lost").run()
    assert "is proportional to the pruned saliency" in words(app) and "exponent 1.00" in words(app)


def test_a_link_opens_a_topic_and_a_bad_one_the_first(start: Start) -> None:
    app = start()
    app.query_params["topic"] = "why-it-loses"
    app.switch_page("pages/method.py").run()
    assert "method.losses" in keys_on(app) and app.query_params["topic"] == "why-it-loses"
    other = start()
    other.query_params["topic"] = "../../etc"
    other.switch_page("pages/method.py").run()
    assert not other.exception and "method.kernel" in keys_on(other) and other.query_params["topic"] == "kernel"


def test_the_answer_has_the_measured_table(start: Start) -> None:
    app = open_method(start, tab=losses.LABEL)
    quality = read_quality()
    assert quality.markdown() in words(app)
    assert "number 4 of 10" in words(app)
    app.radio(key="method.losses.setting").set_value("20% same, least squares").run()
    best = quality.best(next(column for column in quality.columns if column.title == "20% same, least squares"))
    assert best == "taylor" and "Taylor (LLM-Pruner) is best" in words(app)


def test_the_glossary_finds_terms(start: Start) -> None:
    app = open_method(start, tab="Glossary")
    assert "**Saliency**" in words(app) and "**Sparsity**" in words(app)
    app.text_input(key="method.glossary.find").set_value("signs of the gradient").run()
    assert "**SignGD**" in words(app) and "**Sparsity**" not in words(app)
    app.text_input(key="method.glossary.find").set_value("cat food").run()
    assert "No term contains that." in words(app)


def test_a_beaten_run_and_a_beaten_sweep_link_to_the_answer(start: Start, store: Store, filled: Run) -> None:
    put_sweep(store, filled)
    fill(store.create(Recipe().change("saliency", criterion="random"), name="Baseline"), seed=1)
    scale_pruned(filled, 3.0)
    for name in ("compare", "sweep"):
        app = start(filled)
        app.switch_page(f"pages/{name}.py").run()
        app.button(key=f"{name}.why").click().run()
        assert not app.exception and "method.losses" in keys_on(app), name


def test_without_a_choice_of_text_the_calibration_matrix_is_shown(start: Start, filled: Run) -> None:
    chosen = filled.calibration()
    assert isinstance(chosen, CalibrationSelection)
    assert "KL" in words(open_method(start, filled, "Text by KL"))
    filled.put("calibration", chosen.calibration)
    app = open_method(start, filled, "Text by KL")
    assert "draws one calibration set" in words(app) and "method.text" not in keys_on(app)
    write_matrix(filled.folder, make(0.2))
    app = open_method(start, filled, "Text by KL")
    assert "method.text" in keys_on(app) and "draws one calibration set" not in words(app)
