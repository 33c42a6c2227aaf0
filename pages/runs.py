"""Runs: the history, and actions on runs."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.runs import actions, children, choose, compare, history, listed, take_row

now = state.context()
page.page_header("runs")
runs = listed(now)
if not runs:
    st.markdown("There are no runs yet.")
    page.page_link("home", "Run the demo on the Home page")
    st.stop()
take_row(runs)
history(runs)
compare(runs)
chosen = choose(runs)
actions(chosen, now)
children(chosen, now)
