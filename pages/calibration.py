"""Calibration: the calibration text, and the choice of a sample by KL."""

from __future__ import annotations

import streamlit as st

from nirvana.calibration.sets import CalibrationSelection
from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.calibration import (
    charts,
    explain_kl,
    fingerprints,
    load_calibration,
    read_probes,
    read_samples,
    result_protocol,
    token_metrics,
    winner,
)
from nirvana.dashboard.panels.calibration_choice import calibration_controls, cost
from nirvana.dashboard.panels.matrix import transfer


def actions(now: state.Context) -> None:
    """Estimated cost, the button, and the link to the next page."""
    trials = now.recipe.calibration.trials
    done = state.state_of(now, "calibration") == "done"
    st.caption("This choice is computed." if done else cost(now.recipe))
    with st.container(horizontal=True):
        if st.button(
            "Calibration is current" if done else f"Draw and try {trials} sets" if trials > 1 else "Draw the set",
            key="calibration.run",
            type="secondary" if done else "primary",
            disabled=done or now.job is not None,
            help="Loads the model first if needed.",
        ):
            state.submit("calibration")
        if st.button(
            "Continue to Saliency",
            key="calibration.continue",
            type="primary" if done else "tertiary",
            icon=":material/arrow_forward:",
        ):
            st.switch_page("pages/saliency.py")


now = state.context()
page.page_header("calibration")
choice = calibration_controls(now)
if choice != now.recipe.calibration:
    state.set_recipe(now.recipe.change("calibration", **vars(choice)))
    st.rerun()
actions(now)
page.job_panel()
result = load_calibration(now.run)
if result is None:
    page.empty_state("calibration", missing="calibration")
else:
    if now.run.step_state("calibration", now.recipe) == "stale":
        st.warning("What follows belongs to earlier choices. Try the sets again to bring it up to date.")
    protocol = result_protocol(now.run, result)
    if isinstance(result, CalibrationSelection):
        winner(result)
        charts(result, protocol)
    else:
        token_metrics(result)
    read_samples(result)
    if isinstance(result, CalibrationSelection):
        read_probes(result, protocol)
    fingerprints(result)
transfer(now)
with st.expander(
    "What is KL divergence, and how does it choose a set?", icon=":material/help:", key="calibration.about"
):
    explain_kl()
page.show_code("calibration")
