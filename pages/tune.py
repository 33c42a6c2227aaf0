"""Tune: a search for the recipe that changes the model least."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.tune import controls, explain, nothing_yet, results, show_code, start, watch
from nirvana.studies.search_trials import read_trials

now = state.context()
page.page_header("tune")
settings, trials = read_trials(now.run.folder)
asked = controls(now, settings)
start(now, asked, settings, trials)
page.job_panel()
watch(now, trials)
if settings is not None and trials:
    results(now, settings, trials)
else:
    nothing_yet(now)
with st.expander("What is searched, and on which text?", icon=":material/help:", key="tune.about"):
    explain()
show_code(now.recipe, asked)
