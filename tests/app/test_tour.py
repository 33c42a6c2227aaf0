"""The guided tour: from Home through its stops, by link, and off its way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard.guide import GUIDES
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store
from nirvana.teaching.tour import STOPS
from tests.app.conftest import keys_on
from tests.app.test_compare_page import words

Start = Callable[..., AppTest]


def test_the_tour_leads_through_its_pages_and_ends(start: Start, filled: Run) -> None:
    app = start(filled).run()
    app.button(key="home.tour").click().run()
    assert app.query_params["run"] == "example", "the tour is of the example"
    for number, stop in enumerate(STOPS, start=1):
        assert not app.exception and app.title[0].value == GUIDES[stop.page].title
        assert app.query_params["tour"] == str(number)
        assert f"Tour, {number} of {len(STOPS)}: {stop.title}." in words(app)
        assert app.button(key="tour.back").disabled == (number == 1)
        if number < len(STOPS):
            app.button(key="tour.next").click().run()
    assert "tour.next" not in keys_on(app)
    app.button(key="tour.back").click().run()
    assert app.query_params["tour"] == str(len(STOPS) - 1)
    app.button(key="tour.leave").click().run()
    assert "tour" not in app.query_params and "Tour, " not in words(app)
    assert {"home.tour", "sidebar.tour"} <= keys_on(start().run())


def test_a_link_opens_the_tour_at_its_stop(start: Start) -> None:
    app = start()
    app.query_params["tour"] = "5"
    app.run()
    assert "The tour goes on at Allocation." in words(app)
    app.button(key="tour.resume").click().run()
    assert app.title[0].value == "Allocation" and "attention loses 5.6%" in words(app)


@pytest.mark.parametrize("asked", ["0", "99", "-1", "two", "1" * 30])
def test_a_bad_stop_is_no_tour_but_a_notice(asked: str, start: Start) -> None:
    app = start()
    app.query_params["tour"] = asked
    app.run()
    assert "The tour has no stop" in app.error[0].value and "tour" not in app.query_params
    assert app.button(key="home.tour")


def test_numbers_are_those_of_the_open_run(start: Start, store: Store, filled: Run) -> None:
    for run, expected in ((filled, "Find the MLP"), (store.create(Recipe(), name="New"), "no result here yet")):
        app = start(run)
        app.query_params["tour"] = "2"
        app.switch_page("pages/model.py").run()
        assert expected in words(app)
    app.button(key="tour.example").click().run()
    assert app.query_params["run"] == "example" and "46,080 neurons" in words(app)
