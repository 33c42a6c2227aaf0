"""Calibration: the calibration text, and the choice of a sample by KL."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from nirvana.calibration.sets import CalibrationSelection
from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.calibration import (
    by_candidate,
    chart_sections,
    explain_kl,
    fingerprints,
    frequencies,
    load_calibration,
    read_probes,
    read_samples,
    result_protocol,
    token_metrics,
    winner,
)
from nirvana.dashboard.panels.calibration_choice import calibration_controls, show_cost
from nirvana.dashboard.panels.charts import Stated
from nirvana.dashboard.panels.matrix import transfer


def actions(now: state.Context) -> None:
    """Estimated cost, the button, and the link to the next page."""
    trials = now.recipe.calibration.trials
    done = state.state_of(now, "calibration") == "done"
    if done:
        st.caption("This choice is computed.")
    else:
        show_cost(now)
    with st.container(horizontal=True):
        if st.button(
            "Calibration is current" if done else f"Draw and try {trials} sets" if trials > 1 else "Draw the set",
            key="calibration.run",
            type="secondary" if done else "primary",
            disabled=done or now.job is not None,
            help="Loads the model first if needed.",
        ):
            state.submit("calibration")
        page.continue_to("saliency", key="calibration", primary=done)


now = state.context()
page.page_header("calibration")
controls, picture = page.stage()
with controls:
    choice = calibration_controls(now)
if choice != now.recipe.calibration:
    state.set_recipe(now.recipe.change("calibration", **vars(choice)))
    st.rerun()
with controls:
    actions(now)
result = load_calibration(now.run)
sections: dict[str, Callable[[], None]] = {}
with picture:
    page.job_panel()
    if result is None:
        page.empty_state("calibration", missing="calibration")
    elif now.run.step_state("calibration", now.recipe) == "stale":
        st.warning("What follows belongs to earlier choices. Try the sets again to bring it up to date.")
    protocol = Stated(result_protocol(now.run, result) if result is not None else "")
    if isinstance(result, CalibrationSelection):
        by_candidate(result, protocol)
    elif result is not None:
        frequencies(result)
    st.caption(protocol)
if isinstance(result, CalibrationSelection):
    winner(result)
    sections = chart_sections(result, protocol)
elif result is not None:
    token_metrics(result)
if result is not None:
    sections["Samples"] = partial(read_samples, result)
if isinstance(result, CalibrationSelection):
    sections["Probes"] = partial(read_probes, result, protocol)
sections["Transfer"] = partial(transfer, now)
if result is not None:
    sections["Hashes"] = partial(fingerprints, result)
sections["What is KL?"] = explain_kl
page.tabs("calibration.tabs", sections)
page.show_code("calibration")
