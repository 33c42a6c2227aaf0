"""Lecture mode: the charts of a page as slides, one a screen, in large type, without captions and tables.

The whole page still runs, the parts of all tabs included, so that a slide is the chart of the page and its controls
act on it; only the chart of the current slide is drawn, and the style sheet hides everything else.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nirvana.dashboard.guide import PAGES, PageGuide

ON, SLIDE, DECK, PAGE = "nirvana.lecture", "nirvana.slide", "nirvana.deck", "nirvana.lecture_page"
TO = "nirvana.lecture_to"  # the page to switch to
PARAMETER = "lecture"  # of the URL: the number of the slide, from 1
LABELS = 18  # pixels
STYLE = Path(__file__).with_name("lecture.css")
CHART = "lecture.chart"  # key of the slide's container, which the style sheet shows


def is_on() -> bool:
    """Whether this session is in lecture mode."""
    return bool(st.session_state.get(ON))


def begin(page: str) -> None:
    """At the start of a page: read the mode and the slide from the URL, and forget the page's slides."""
    wanted = st.query_params.get(PARAMETER)
    if wanted is not None and ON not in st.session_state:
        number = int(wanted) if wanted.isdecimal() and len(wanted) < 4 else 1
        st.session_state[ON], st.session_state[SLIDE], st.session_state[PAGE] = True, max(number - 1, 0), page
    if not is_on():
        return
    to = st.session_state.pop(TO, None)
    if to is not None:
        st.switch_page(to)
    if st.session_state.get(PAGE) != page:
        st.session_state[PAGE], st.session_state[SLIDE] = page, 0
    st.session_state[DECK] = []
    st.html(STYLE)


def is_shown(key: str) -> bool:
    """Whether the chart `key` is the current slide; every chart asks, which makes it one."""
    deck = st.session_state.setdefault(DECK, [])
    if key not in deck:
        deck.append(key)
    return bool(deck.index(key) == st.session_state.get(SLIDE, 0))


def slide(key: str) -> DeltaGenerator:
    """Container of the current slide."""
    return st.container(key=f"{CHART}.{key}", height="stretch")


def bar() -> None:
    """After a page was run: its slide's number, and the buttons, which the arrow keys press too."""
    if not is_on():
        return
    page, deck, now = st.session_state[PAGE], st.session_state.get(DECK, []), st.session_state.get(SLIDE, 0)
    if deck and now >= len(deck):  # the page has fewer charts than before
        st.session_state[SLIDE] = len(deck) - 1
        st.rerun()
    st.query_params[PARAMETER] = str(now + 1)
    with st.container(key="lecture.bar", horizontal=True, vertical_alignment="center"):
        for label, name, step in (("Back", "back", -1), ("Next", "next", 1)):
            st.button(
                label,
                key=f"lecture.{name}",
                icon=":material/arrow_back:" if step < 0 else ":material/arrow_forward:",
                shortcut="Left" if step < 0 else "Right",
                disabled=not 0 <= now + step < len(deck) and _beside(page, step) is None,
                on_click=move,
                args=(page, step),
            )
        title = next(guide.title for guide in PAGES if guide.key == page)
        st.markdown(f"{title} · {f'{now + 1} of {len(deck)}' if deck else 'no charts'}")
        st.button("End the lecture", key="lecture.end", type="tertiary", icon=":material/close:", on_click=end)


def switch() -> None:
    """The button that starts lecture mode."""
    st.button(
        "Lecture mode",
        key="lecture.start",
        type="tertiary",
        icon=":material/co_present:",
        on_click=start,
        help="One chart a screen in large type. The arrow keys move on, through the pages too.",
    )


def start() -> None:
    st.session_state[ON], st.session_state[SLIDE] = True, 0


def end() -> None:
    st.session_state[ON] = False
    st.query_params.pop(PARAMETER, None)


def move(page: str, step: int) -> None:
    """To the slide before or after, or beyond the first or last one to the page beside, at its first slide."""
    slide = st.session_state.get(SLIDE, 0) + step
    if 0 <= slide < len(st.session_state.get(DECK, [])):
        st.session_state[SLIDE] = slide
        return
    other = _beside(page, step)
    if other is not None:
        st.session_state[TO] = other.path


def _beside(page: str, step: int) -> PageGuide | None:
    keys = [guide.key for guide in PAGES]
    place = keys.index(page) + step
    return PAGES[place] if 0 <= place < len(PAGES) else None
