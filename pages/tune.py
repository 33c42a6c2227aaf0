"""Tune: search for the recipe with the lowest KL."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.tune import PANEL, controls, explain, nothing_yet, results, start
from nirvana.reporting.search import command_line, python_code
from nirvana.studies.search_trials import read_trials

now = state.context()
page.page_header("tune")
settings, trials = read_trials(now.run.folder)
request = controls(now, settings)
start(now, request, settings, trials)
page.job_panel()
PANEL.watch(now)
if settings is not None and trials:
    results(now, settings, trials)
else:
    nothing_yet(now)
with st.expander("What is searched, and on which text?", icon=":material/help:", key="tune.about"):
    explain()
PANEL.code(python_code(now.recipe, request), command_line(now.recipe, request))
