"""Recover: train the pruned model, and watch its quality on held-out text."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.exports import chosen_format
from nirvana.dashboard.panels.recover import actions, explain, result, watch
from nirvana.dashboard.panels.recover_choice import recovery_controls

now = state.context()
page.page_header("recover")
if now.job is not None:
    page.job_panel(now)
watch(now)
choice = recovery_controls(now.recipe.recovery)
if choice != now.recipe.recovery:
    state.set_recipe(now.recipe.change("recovery", **vars(choice)))
    st.rerun()
actions(now)
if now.job is None:
    page.job_panel(now)  # the failure of the last one
if now.run.info("prune") is None:
    page.empty_state("recover", missing="prune")
result(now)
with st.expander("What is trained, and on which text?", icon=":material/help:", key="recover.about"):
    explain()
page.show_code("recover", chosen_format("recovered"))
