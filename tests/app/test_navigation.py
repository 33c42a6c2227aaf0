"""Pages, links and the URL."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard.guide import GUIDES, PAGES
from nirvana.runs.store import Run, Store
from tests.app.conftest import ROOT

Start = Callable[..., AppTest]


def test_files_in_pages_are_the_registered_pages() -> None:
    assert {path.stem for path in (ROOT / "pages").glob("*.py")} == {page.key for page in PAGES}


@pytest.mark.parametrize("key", list(GUIDES))
def test_every_page_is_registered_in_the_app(key: str, start: Start) -> None:
    app = start().run()
    app.switch_page(GUIDES[key].path).run()  # raises ValueError where st.navigation does not know it
    assert app.title[0].value == GUIDES[key].title


@pytest.mark.parametrize("key", list(GUIDES))
def test_a_direct_link_to_a_page_of_a_new_server_runs_the_app(key: str, start: Start, filled: Run) -> None:
    app = start(filled)
    app.switch_page(GUIDES[key].path).run()
    assert not app.exception
    assert app.sidebar.markdown[0].value == "**Filled**"


def test_the_run_stays_open_when_a_navigation_click_drops_it_from_the_url(start: Start, filled: Run) -> None:
    app = start(filled).run()
    del app.query_params["run"]
    app.switch_page("pages/model.py").run()
    assert app.query_params["run"] == filled.id


def test_an_unknown_run_opens_the_example_and_says_so(start: Start) -> None:
    app = start()
    app.query_params["run"] = "../../etc"
    app.run()
    assert not app.exception
    assert "There is no such run." in app.error[0].value
    assert app.query_params["run"] == "example"


def test_opening_another_run_takes_its_choices(start: Start, store: Store, filled: Run) -> None:
    other = store.create(filled.recipe.change("allocation", sparsity=0.35), name="Other", parent=filled)
    app = start(filled).run()
    app.switch_page("pages/allocation.py").run()
    assert app.slider(key="allocation.sparsity").value == 0.2
    app.query_params["run"] = other.id
    app.run()
    assert app.slider(key="allocation.sparsity").value == 0.35


def test_runs_are_renamed_pinned_and_deleted(start: Start, store: Store, filled: Run) -> None:
    app = start(filled).run()
    app.switch_page("pages/runs.py").run()
    app.selectbox(key="runs.selected").select(filled.id).run()
    app.text_input(key=f"runs.name.{filled.id}").set_value("Better name").run()
    app.button(key="runs.rename.save").click().run()
    assert store.open(filled.id).name == "Better name"
    app.button(key="runs.pin").click().run()
    assert store.open(filled.id).pinned
    app.button(key="runs.delete.confirm").click().run()
    assert not app.exception
    assert filled.id not in [run.id for run in store.runs()]
    assert app.query_params["run"] == "example"


def test_home_ends_in_each_models_numbers_and_text(start: Callable[..., AppTest], filled: Run) -> None:
    app = start(filled).run()
    assert not app.exception
    (table,) = [each.value for each in app.table]
    assert list(table.columns) == ["dense", "pruned"] and "x)" in table["pruned"].iloc[0]
    shown = [code.value for code in app.code]
    (continued,) = filled.continuations()
    assert continued.prompt in shown and all(text.strip() in shown for text in continued.texts.values())
