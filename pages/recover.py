"""Recover: train the pruned model, and watch its quality on held-out text."""

from __future__ import annotations

from functools import partial

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.exports import chosen_export
from nirvana.dashboard.panels.recover import actions, checks, explain, export, loss, watch
from nirvana.dashboard.panels.recover_choice import recovery_controls

now = state.context()
page.page_header("recover")
controls, picture = page.stage()
with controls:
    choice = recovery_controls(now.recipe.recovery)
if choice != now.recipe.recovery:
    state.set_recipe(now.recipe.change("recovery", **vars(choice)))
    st.rerun()
with controls:
    actions(now)
with picture:
    page.job_panel(now)
    watch(now)
    if now.run.info("prune") is None:
        page.empty_state("recover", missing="prune")
page.tabs(
    "recover.tabs",
    {
        "Training loss": partial(loss, now),
        "Checks": partial(checks, now),
        "Export": partial(export, now),
        "How it is trained": explain,
    },
)
page.show_code("recover", *chosen_export("recovered"))
