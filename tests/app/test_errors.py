"""Bad input gets a clear error on the page, and nothing is lost."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard.guide import PAGES, PageGuide
from nirvana.reporting.text import plain
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from tests.app.conftest import ROOT

Start = Callable[..., AppTest]


def pickled(folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    return str(folder)


def without_config(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def unknown_family(folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "rwkv"}')
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def broken_config(folder: Path) -> str:
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": "many"}')
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def not_gguf(folder: Path) -> str:
    (folder / "model.gguf").write_bytes(b"not one")
    return str(folder / "model.gguf")


def nowhere(folder: Path) -> str:
    return str(folder / "nowhere")


@pytest.mark.parametrize("make", [pickled, without_config, unknown_family, broken_config, not_gguf, nowhere])
def test_a_bad_model_is_refused_before_it_is_loaded(
    make: Callable[[Path], str], start: Start, filled: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    app = start(filled)
    app.switch_page("pages/model.py").run()
    app.segmented_control(key="model.source").select("Local").run()
    app.text_input(key="model.path").set_value(make(folder)).run()
    assert not app.exception
    assert len(app.error) == 1
    what, hint = app.error[0].value.split("\n\n")
    assert what.startswith("**")
    assert hint
    assert app.button(key="model.load").disabled
    assert filled.saliency() is not None


def test_a_model_larger_than_memory_is_refused(start: Start, store: Store, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "num_hidden_layers": 900, "hidden_size": 8192, "num_attention_heads": 64, '
        '"intermediate_size": 28672, "vocab_size": 128256}'
    )
    (tmp_path / "model.safetensors").write_bytes(b"")
    app = start(store.create(Recipe().change("model", name=str(tmp_path)))).run()
    app.switch_page("pages/model.py").run()
    assert not app.exception
    assert "free" in app.error[0].value
    assert app.button(key="model.load").disabled


def test_a_sparsity_out_of_reach_is_explained_and_not_queued(start: Start, filled: Run) -> None:
    app = start(filled)
    app.switch_page("pages/allocation.py").run()
    app.slider(key="allocation.sparsity").set_value(0.99).run()
    assert not app.exception
    assert app.error
    app.switch_page("pages/prune.py").run()
    assert app.error
    assert app.button(key="prune.run").disabled
    assert filled.plan() is not None


@pytest.mark.parametrize(
    ("page", "widget", "key", "value"),
    [
        ("allocation", "slider", "allocation.sparsity", -0.1),
        ("allocation", "slider", "allocation.sparsity", 1.0),
        ("allocation", "slider", "allocation.sparsity", math.nan),
        ("calibration", "number_input", "calibration.samples", 0),
        ("calibration", "number_input", "calibration.seed", -1),
        ("compare", "number_input", "compare.window", 1),
    ],
)
def test_a_value_that_no_control_offers_reaches_no_recipe(
    page: str, widget: str, key: str, value: float, start: Start, store: Store, filled: Run
) -> None:
    app = start(filled)
    app.switch_page(f"pages/{page}.py").run()
    known = [run.id for run in store.runs()]
    getattr(app, widget)(key=key).set_value(value).run()
    assert not app.exception
    draft = app.session_state["nirvana.draft"]
    assert Recipe.from_json(draft.to_json()) == draft  # every value within its bounds
    assert [run.id for run in store.runs()] == known and filled.status == "done"


def test_a_corpus_without_a_name_does_no_harm(start: Start, filled: Run) -> None:
    app = start(filled).run()
    app.session_state["nirvana.draft"] = filled.recipe.change("calibration", corpus=" ")
    for file in ("calibration", "saliency", "allocation", "prune"):
        app.switch_page(f"pages/{file}.py").run()
        assert not app.exception, (file, app.exception[0].message)


def test_a_name_that_looks_like_markup_is_shown_as_it_is(start: Start, store: Store) -> None:
    name = "![x](http://example.org/x.png) <b>*bold*</b> $a$ :red[b]"
    app = start(store.create(Recipe(), name=name)).run()
    assert app.sidebar.markdown[0].value == f"**{plain(name)}**"
    assert "![" not in app.sidebar.markdown[0].value


def test_a_run_deleted_meanwhile_is_no_crash(start: Start, store: Store, filled: Run) -> None:
    app = start(filled).run()
    store.delete(filled.id)
    app.switch_page("pages/saliency.py").run()
    assert not app.exception
    assert any("There is no such run" in box.value for box in app.error)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.key)
def test_every_page_explains_runs_that_cannot_be_read(page: PageGuide, start: Start, own_home: Path) -> None:
    Store().create(Recipe())
    with closing(sqlite3.connect(own_home / "runs.sqlite3")) as connection:
        connection.execute("PRAGMA user_version = 99")
    for app in (start().switch_page(page.path), AppTest.from_file(str(ROOT / page.path))):
        app.run()
        assert not app.exception
        (error,) = app.error
        assert "newer version" in error.value and "Update the program" in error.value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.key)
def test_every_page_works_after_its_index_was_damaged(page: PageGuide, start: Start, filled: Run) -> None:
    assert filled.index is not None
    filled.index.path.write_bytes(b"not a database" * 1000)
    app = start(filled)
    app.switch_page(page.path).run()
    assert not app.exception and not app.error and app.query_params["run"] == filled.id
    assert "is kept as runs.sqlite3.damaged-" in app.warning[0].value.replace("\\", "")
    assert "1 run found" in app.warning[0].value
    app.button(key="notices.read").click().run()
    assert not app.exception and not app.warning


def test_an_index_that_breaks_while_the_server_runs(start: Start, filled: Run) -> None:
    app = start(filled).run()
    assert filled.index is not None
    for damage in (b"not a database" * 1000, b""):
        filled.index.path.write_bytes(damage)
        app.switch_page("pages/runs.py").run()
        assert not app.exception and app.selectbox(key="runs.selected").value == filled.id
    with closing(sqlite3.connect(filled.index.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    app.button(key="runs.pin").click().run()
    assert not app.exception and "newer version" in app.error[0].value


def test_a_run_deleted_before_its_button_is_pressed(start: Start, store: Store, filled: Run) -> None:
    app = start().run()
    store.delete(filled.id)
    app.button(key=f"home.open.{filled.id}").click().run()
    assert not app.exception and "There is no such run" in app.error[0].value
