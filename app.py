"""The dashboard: `streamlit run app.py`."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import lecture, state
from nirvana.dashboard.guide import ICON, PAGES, STYLE
from nirvana.dashboard.panels.messages import show_error
from nirvana.dashboard.panels.sidebar import page_icon, sidebar
from nirvana.errors import NirvanaError

st.set_page_config(page_title="Nirvana Studio", page_icon=str(ICON), layout="wide", initial_sidebar_state=244)
st.html(STYLE)
icons, problem = {guide.key: guide.icon for guide in PAGES}, None
try:
    now = state.read_context()
    icons = {guide.key: page_icon(now, guide) for guide in PAGES}
except NirvanaError as error:  # the runs cannot be read: the pages are listed, and each shows the error
    problem = error
sections: dict[str, list[st.Page]] = {}
for guide in PAGES:
    page = st.Page(
        guide.path,
        title="Home" if guide.key == "home" else guide.title,
        icon=icons[guide.key],
        help=guide.help,
        default=guide.key == "home",
    )
    sections.setdefault(guide.section, []).append(page)
chosen = st.navigation(sections, expanded=True)
if problem is not None:
    st.title(chosen.title)
    show_error(problem)
    st.stop()
try:
    sidebar(now)
    chosen.run()
    lecture.bar()
except NirvanaError as error:  # e.g. a value out of range that no control offers
    show_error(error)
