"""The guided tour: a strip in place of a page's introduction, in the session and in the URL as `?tour=3`."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.guide import GUIDES
from nirvana.errors import RunError
from nirvana.reporting.text import plain
from nirvana.runs.recipe import STEPS
from nirvana.runs.store import EXAMPLE
from nirvana.teaching.tour import STOPS

TOUR, PARAMETER = "nirvana.tour", "tour"


def offer(key: str, label: str) -> None:
    """A button that begins the tour on the example run, under widget key `key`; nothing during a tour."""
    if _position() is None and st.button(
        label,
        key=key,
        type="tertiary",
        icon=":material/tour:",
        help=f"{len(STOPS)} stops on the pages of the example run, with one thing to look at on each.",
    ):
        state.open_run(EXAMPLE)
        _go(1)


def strip(key: str) -> bool:
    """The tour's stop on page `key`, with buttons to move on; False outside a tour."""
    number = _position()
    if number is None:
        st.query_params.pop(PARAMETER, None)
        return False
    if st.query_params.get(PARAMETER) != str(number):
        st.query_params[PARAMETER] = str(number)  # a click in the navigation drops it
    stop = STOPS[number - 1]
    with st.container(border=True):
        words, buttons = st.columns([5, 2], vertical_alignment="center")
        words.markdown(f"**Tour, {number} of {len(STOPS)}: {stop.title}.** {_words(number, key)}")
        with buttons.container(horizontal=True, horizontal_alignment="right", gap="small"):
            _buttons(number, key)
    return True


def _words(number: int, key: str) -> str:
    stop, run = STOPS[number - 1], state.context().run
    if stop.page != key:
        return f"The tour goes on at {GUIDES[stop.page].title if stop.page != 'home' else 'Home'}."
    fingerprints = tuple(str((run.info(step) or {}).get("fingerprint")) for step in STEPS)
    found = _look(number, run.id, fingerprints)
    return plain(found) if found else "The open run has no result here yet. Open the example, or run the step."


@st.cache_data(max_entries=64, show_spinner=False)
def _look(number: int, run_id: str, fingerprints: tuple[str, ...]) -> str | None:
    """Text of a stop, cached for each state of a run."""
    return STOPS[number - 1].look(state.store().open(run_id))


def _buttons(number: int, key: str) -> None:
    stop = STOPS[number - 1]
    if stop.page != key:
        if st.button("Go on", key="tour.resume", type="primary", icon=":material/arrow_forward:"):
            _go(number)
    else:
        if st.button("Back", key="tour.back", icon=":material/arrow_back:", disabled=number == 1):
            _go(number - 1)
        last = number == len(STOPS)
        if not last and st.button("Next", key="tour.next", type="primary", icon=":material/arrow_forward:"):
            _go(number + 1)
    if not state.context().run.is_example:
        st.button("Open the example", key="tour.example", type="tertiary", on_click=state.open_run, args=(EXAMPLE,))
    st.button("Leave", key="tour.leave", type="tertiary", icon=":material/close:", on_click=_leave)


def _position() -> int | None:
    """The present stop, from 1: the session's, else the URL's; None outside a tour."""
    if TOUR not in st.session_state:
        asked = st.query_params.get(PARAMETER, "")
        known = asked.isdecimal() and len(asked) < 4 and 1 <= int(asked) <= len(STOPS)
        if asked and not known:
            st.session_state[state.PROBLEM] = RunError(
                f"The tour has no stop {asked[:20]!r}: it has {len(STOPS)}.", "Start it on the Home page."
            )
        st.session_state[TOUR] = int(asked) if known else None
    found: int | None = st.session_state[TOUR]
    return found


def _go(number: int) -> None:
    st.session_state[TOUR] = number
    st.switch_page(GUIDES[STOPS[number - 1].page].path)


def _leave() -> None:
    st.session_state[TOUR] = None
