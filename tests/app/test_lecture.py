"""Lecture mode: every chart of a page is a slide, one at a time, and the last one leads to the next page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from nirvana.dashboard import lecture
from nirvana.runs.store import Run
from tests.app.conftest import keys_on
from tests.app.test_compare_page import words

Start = Callable[..., AppTest]


def lecture_on(app: AppTest, page: str, slide: str) -> AppTest:
    app.query_params["lecture"] = slide
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    return app


def slides(app: AppTest) -> list[str]:
    """Keys of the charts on the page."""
    return [key for key in app.session_state[lecture.DECK] if key in keys_on(app)]


@pytest.mark.parametrize("page", ["allocation", "compare", "saliency", "calibration", "method"])
def test_every_chart_is_a_slide_and_only_one_is_drawn(start: Start, filled: Run, page: str) -> None:
    count = len(lecture_on(start(filled), page, "1").session_state[lecture.DECK])
    assert count > 1
    for number in range(1, count + 1):
        app = lecture_on(start(filled), page, str(number))
        deck = app.session_state[lecture.DECK]
        assert slides(app) == [deck[number - 1]] and len(deck) == len(set(deck)) == count
        assert f"· {number} of {count}" in words(app) and str(number) in app.query_params["lecture"]


def test_next_leads_to_the_next_slide_and_from_the_last_one_to_the_next_page(start: Start, filled: Run) -> None:
    app = lecture_on(start(filled), "allocation", "1")
    deck = list(app.session_state[lecture.DECK])
    app.button(key="lecture.next").click().run()
    assert slides(app) == [deck[1]]
    last = lecture_on(start(filled), "allocation", str(len(deck)))
    last.button(key="lecture.next").click().run()
    assert not last.exception and last.session_state[lecture.PAGE] == "prune" and len(slides(last)) == 1
    first = lecture_on(start(filled), "model", "1")
    first.button(key="lecture.back").click().run()
    assert first.session_state[lecture.PAGE] == "home"


@pytest.mark.parametrize("value", ["0", "-1", "x", "999", "²", "9" * 50])
def test_a_slide_that_is_not_there_is_replaced(start: Start, filled: Run, value: str) -> None:
    assert len(slides(lecture_on(start(filled), "allocation", value))) == 1


def test_it_starts_from_the_sidebar_and_ends(start: Start, filled: Run) -> None:
    app = start(filled).run()
    app.sidebar.button(key="lecture.start").click().run()
    assert slides(app) == ["home.ratios"]
    app = lecture_on(start(filled), "allocation", "1")
    app.button(key="lecture.end").click().run()
    assert "lecture" not in app.query_params and not app.session_state[lecture.ON]
    assert "allocation.kept.decoder" in keys_on(app)


def test_controls_act_on_the_slide(start: Start, filled: Run) -> None:
    app = lecture_on(start(filled), "allocation", "1")
    (before,) = slides(app)
    app.slider(key="allocation.sparsity").set_value(0.4).run()
    assert slides(app) == [before] and app.session_state["nirvana.draft"].allocation.sparsity == 0.4
