"""The dashboard: `streamlit run app.py`."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.guide import PAGES
from nirvana.dashboard.panels.messages import show_error
from nirvana.dashboard.panels.sidebar import page_icon, sidebar
from nirvana.errors import NirvanaError

st.set_page_config(page_title="Nirvana Studio", page_icon=":material/content_cut:", layout="wide")
now = state.context()
sections: dict[str, list[st.Page]] = {}
for guide in PAGES:
    page = st.Page(
        guide.path,
        title="Home" if guide.key == "home" else guide.title,
        icon=page_icon(now, guide),
        help=guide.help,
        default=guide.key == "home",
    )
    sections.setdefault(guide.section, []).append(page)
chosen = st.navigation(sections, expanded=True)
sidebar(now)
try:
    chosen.run()
except NirvanaError as error:  # e.g. a value out of range that no control offers
    show_error(error)
