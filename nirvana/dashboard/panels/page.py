"""Parts of every page: header, running job, errors, empty states, code, and chart data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.pages_manager import PagesManager

from nirvana.dashboard import lecture, selection, state
from nirvana.dashboard.guide import GUIDES, STEP_GUIDES
from nirvana.dashboard.panels import tour
from nirvana.dashboard.panels.job import job_panel
from nirvana.dashboard.panels.messages import message, page_link, show_error
from nirvana.reporting import code
from nirvana.reporting.glossary import tooltip
from nirvana.reporting.text import plain
from nirvana.runs.store import EXAMPLE

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "continue_to",
    "empty_state",
    "job_panel",
    "message",
    "page_header",
    "page_link",
    "show_code",
    "show_error",
    "stage",
    "table_and_csv",
    "tabs",
]

ENTERED = "nirvana.entered"

EMPTY = {  # page: its future content
    "model": "Load a model to see its architecture and parameters.",
    "calibration": "This page will compare the candidate sets and show the winner's samples.",
    "saliency": "This page will show the score of every unit, as a map of layers and units.",
    "unit": "This page will show one unit: the text that drives it, its scores, and the effect of its removal.",
    "allocation": "This page will allocate the budget by the scores, live as the sliders move.",
    "prune": "This page will show the model before and after pruning.",
    "recover": "This page will show the training loss, and perplexity and KL on held-out text while the model trains.",
    "compare": "This page will show measurements of each model on the same text, and their continuations of a prompt.",
}


def page_header(key: str) -> None:
    """Title, introduction or the tour's stop, and what went wrong before the page was opened."""
    _enter_through_app()
    lecture.begin(key)
    guide = GUIDES[key]
    st.title(guide.title)
    if not tour.strip(key):
        st.markdown(guide.about, help=tooltip(guide.about) or None)
    state.context()  # opens the run of the URL, which may be gone
    problem = state.take_problem()
    if problem is not None:
        show_error(problem)
    for notice in selection.take_notices():
        st.warning(plain(notice), icon=":material/link_off:")
    notices = state.notices()
    if notices:
        st.warning("\n\n".join(map(plain, notices)), icon=":material/healing:")
        st.button("Do not show this again", key="notices.read", type="tertiary", on_click=state.read_notices)


def _enter_through_app() -> None:
    """Restart with app.py if a session begins with a direct link to a page of a new server.

    Until the first call of st.navigation, Streamlit treats pages/ as a separate app and runs the page without app.py.
    Only a session's first run restarts, since a later one may carry a click.
    """
    first = st.session_state.setdefault(ENTERED, False) is False
    st.session_state[ENTERED] = True
    if first and PagesManager.uses_pages_directory:
        PagesManager.uses_pages_directory = False
        st.rerun()


def stage(chart: str = "", *, empty: bool = False) -> tuple[DeltaGenerator, DeltaGenerator]:
    """Columns of the first screen: the controls that matter, and beside them the page's picture.

    Args:
        chart: the picture's key, on a page with a stage in each tab: a lecture shows the controls of its slide only.
        empty: the chart is not drawn, since there is nothing to show yet.
    """
    controls, picture = st.columns([2, 5], gap="medium")
    elsewhere = chart and lecture.is_on() and (empty or not lecture.is_shown(chart))
    return controls.container(key=f"{chart}.controls" if elsewhere else "page.controls"), picture


def continue_to(next_key: str, *, key: str, primary: bool) -> None:
    """Button to the page of the next step, under widget key `<key>.continue`."""
    if st.button(
        f"Continue to {GUIDES[next_key].title}",
        key=f"{key}.continue",
        type="primary" if primary else "tertiary",
        icon=":material/arrow_forward:",
    ):
        st.switch_page(GUIDES[next_key].path)


def tabs(key: str, sections: Mapping[str, Callable[[], None]]) -> None:
    """Tabs by label, under widget key `key`. Only the open one is computed and sent to the browser."""
    if lecture.is_on():  # every chart is a slide
        for show in sections.values():
            show()
        return
    for tab, show in zip(st.tabs(list(sections), key=key, on_change="rerun"), sections.values(), strict=True):
        if tab.open:
            with tab:
                show()


def empty_state(key: str, missing: str) -> None:
    """Placeholder of missing results, with the step that they need."""
    now, first = state.context(), STEP_GUIDES[missing]
    with st.container(border=True):
        st.markdown(f"#### Nothing to show yet\n{EMPTY.get(key, '')}")
        if now.job is not None:
            st.markdown("The running job will fill this page.")
        elif first.key != key:
            st.markdown(f"It needs the **{first.title}** step first.")
        with st.container(horizontal=True, vertical_alignment="center"):
            if first.key != key and now.job is None:
                page_link(first.key)
            if not now.run.is_example:
                st.button(
                    "Look at the example run",
                    key=f"{key}.open_example",
                    type="tertiary",
                    icon=":material/visibility:",
                    on_click=state.open_run,
                    args=(EXAMPLE,),
                )


def show_code(key: str, format: str = "", dtype: str = "auto") -> None:
    """The draft up to this step as Python script and command line, with an export in `format` and `dtype` if given."""
    recipe, step = state.context().recipe, GUIDES[key].step
    with st.expander("Show as code", icon=":material/code:", key=f"{key}.code"):
        python, line = st.tabs(["Python", "Command line"], key=f"{key}.code.tabs")
        python.code(code.python_code(recipe, step, format, dtype), language="python", wrap_lines=True)
        line.code(code.command_line(recipe, step, format, dtype), language="bash", wrap_lines=True)


@st.fragment
def table_and_csv(key: str, table: pd.DataFrame, protocol: str = "") -> None:
    """Data of a chart with its protocol, sent to the browser on demand; widget keys `<key>`, `<key>.csv`."""
    with st.expander(
        "Numbers", type="compact", icon=":material/table_rows:", key=f"{key}.open", on_change="rerun"
    ) as box:
        if box.open:
            st.dataframe(table, hide_index=True, key=key, height="auto" if len(table) < 9 else 320)
            if protocol:
                st.caption(protocol)
            st.download_button(
                "Download CSV",
                data=lambda: table.to_csv(index=False).encode(),
                file_name=f"{key.removesuffix('.table').replace('.', '-')}.csv",
                mime="text/csv",
                key=f"{key}.csv",
                icon=":material/download:",
                on_click="ignore",
            )
