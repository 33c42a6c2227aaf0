"""One selection for all pages, in the URL."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard.panels.sidebar import link
from nirvana.dashboard.selection import Selection
from nirvana.layout import ATTENTION, CROSS_ATTENTION, MLP, Site
from nirvana.models.families.t5 import T5Family
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import SMALL_T5, fill

Start = Callable[..., AppTest]


def at(app: AppTest, page: str) -> AppTest:
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception, page
    return app


def linked(start: Start, run: Run, **values: str) -> AppTest:
    app = start(run)
    for name, value in values.items():
        app.query_params[name] = value
    return app


def test_a_link_selects_on_every_page(start: Start, filled: Run) -> None:
    app = linked(start, filled, layer="2", unit="mlp.17", criterion="taylor").run()
    at(app, "saliency")
    assert app.select_slider(key="saliency.layer").value == 2
    assert app.selectbox(key="saliency.criterion").value == "taylor"
    assert any("Neuron 17, layer 2" in each.value for each in app.markdown)
    at(app, "unit")
    assert app.select_slider(key="unit.layer").value == 2 and app.number_input(key="unit.number").value == 17
    for page in ("allocation", "prune"):
        at(app, page)
        assert any("Neuron 17, layer 2" in each.value for each in app.markdown), page
    assert not app.warning or all("link" not in each.value for each in app.warning)
    found = {name: app.query_params[name] for name in ("run", "stack", "layer", "unit", "criterion")}
    assert found == {
        "run": filled.id, "stack": "decoder", "layer": "2", "unit": "mlp.17", "criterion": "taylor"
    }  # fmt: skip


def test_a_choice_is_kept_on_other_pages_when_navigation_drops_the_url(start: Start, filled: Run) -> None:
    app = at(linked(start, filled).run(), "unit")
    app.select_slider(key="unit.layer").set_value(3).run()
    app.segmented_control(key="unit.module").select(ATTENTION).run()
    app.number_input(key="unit.number").set_value(1).run()
    assert app.query_params["unit"] == "attention.1" and app.query_params["layer"] == "3"
    for name in ("layer", "unit", "stack", "criterion"):
        del app.query_params[name]
    at(app, "saliency")
    assert app.select_slider(key="saliency.layer").value == 3
    assert any("KV group 1, layer 3" in each.value for each in app.markdown)
    assert app.query_params["unit"] == "attention.1"
    app.select_slider(key="saliency.layer").set_value(0).run()
    assert "unit" not in app.query_params and app.query_params["layer"] == "0"
    at(app, "unit")
    assert app.select_slider(key="unit.layer").value == 0


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("layer", "99", "layer '99'; this model's decoder has layers 0 to 3. Layer 0 is shown."),
        ("layer", "-1", "layer '-1'"),
        ("layer", "²", "layer '²'"),
        ("stack", "encoder", "stack 'encoder'; this model has decoder. decoder is shown."),
        ("unit", "mlp.96", "unit 'mlp.96'; layer 0 has attention.0 to attention.3 and mlp.0 to mlp.95."),
        ("unit", "<script>", "unit '<script>'"),
        ("criterion", "astrology", "criterion 'astrology', which does not exist. It stays nirvana."),
        ("layer", "7" * 500, "…"),
    ],
)
def test_a_bad_value_falls_back_with_a_notice_that_names_it(
    start: Start, filled: Run, name: str, value: str, shown: str
) -> None:
    app = at(linked(start, filled, **{name: value}).run(), "saliency")
    assert app.select_slider(key="saliency.layer").value == 0
    assert app.query_params.get(name) != [value] and app.query_params.get(name, "") != value
    app = linked(start, filled, **{name: value})
    app.switch_page("pages/saliency.py").run()
    assert not app.exception
    texts = [each.value.replace("\\", "") for each in app.warning]
    assert any(shown in text and len(text) < 200 for text in texts), texts
    app.run()
    assert not app.warning, "it is shown once"


def test_an_unknown_run_is_named(start: Start) -> None:
    app = start()
    app.query_params["run"] = "foreign"
    app.run()
    assert "'foreign'" in app.error[0].value and app.query_params["run"] == "example"


def test_a_run_without_that_layer_shows_its_first(start: Start, store: Store, filled: Run) -> None:
    small = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4}
    small |= {"intermediate_size": 16, "vocab_size": 300, "tie_word_embeddings": True}
    other = fill(store.create(Recipe(), name="Shallow"), small)
    app = at(linked(start, filled, layer="3", unit="mlp.90").run(), "saliency")
    app.query_params["run"] = other.id
    app.run()
    assert app.select_slider(key="saliency.layer").value == 0
    assert "unit" not in app.query_params and not app.warning


def test_both_stacks_of_an_encoder_decoder_can_be_linked(start: Start, store: Store) -> None:
    run = fill(store.create(Recipe(), name="T5"), SMALL_T5, family=T5Family())
    app = at(linked(start, run, stack="decoder", layer="1", unit="cross_attention.2").run(), "unit")
    assert app.segmented_control(key="unit.stack").value == "decoder"
    assert app.segmented_control(key="unit.module").value == CROSS_ATTENTION
    assert app.number_input(key="unit.number").value == 2
    app.segmented_control(key="unit.stack").select("encoder").run()
    assert not app.exception
    assert app.segmented_control(key="unit.module").value == MLP, "the encoder has no cross-attention"


def test_before_a_model_is_loaded_the_url_is_left(start: Start, store: Store) -> None:
    app = linked(start, store.create(Recipe(), name="New"), layer="5").run()
    assert not app.exception and not app.warning
    assert app.query_params["layer"] == "5"


def test_the_link_restores_all_that_was_chosen() -> None:
    chosen = {"run": "example", "layer": "3", "unit": "mlp.7", "criterion": "wanda-sp"}
    address = link("http://localhost:8501/saliency", chosen)
    assert urlsplit(address).path == "/saliency"
    assert {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()} == chosen


def test_within_keeps_what_the_model_has() -> None:
    layout = T5Family().layout(SMALL_T5)
    now = Selection("decoder", 2, CROSS_ATTENTION, 3).within(layout)
    assert now == Selection("decoder", 2, CROSS_ATTENTION, 3) and now.site == Site("decoder", 2, CROSS_ATTENTION)
    assert Selection("decoder", 2, CROSS_ATTENTION, 4).within(layout).unit is None
    assert Selection("nowhere", 2, MLP, 1).within(layout) == Selection("encoder", 2, MLP, None)
    assert Selection().within(layout) == Selection("encoder", 0, MLP, None)
    assert Selection().parameters == {}
