"""Runs: the history, and any two side by side."""

from __future__ import annotations

import streamlit as st

from nirvana.ui import state
from nirvana.ui.panels import page
from nirvana.ui.panels.runs import actions, children, choose, compare, history, listed, take_row

now = state.context()
page.page_header("runs")
runs = listed(now)
if not runs:
    st.markdown("There are no runs yet.")
    page.page_link("home", "Run the demo on the Home page")
    st.stop()
take_row(runs)
history(runs)
chosen = choose(runs)
actions(chosen, now)
children(chosen, now)
st.markdown("### Compare two runs")
if len(runs) > 1:
    compare(runs)
else:
    st.caption("This needs two runs, or one and the example.")
