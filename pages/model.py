"""Model: choice, device and architecture."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.cost import expected, warn, words
from nirvana.dashboard.panels.model import anatomy, choose_model, describe, fits, parts, resident
from nirvana.errors import RunError
from nirvana.reporting.estimates import expected_seconds
from nirvana.reporting.text import plain
from nirvana.runs.pace import read_pace
from nirvana.runs.recipe import ModelChoice


def actions(now: state.Context, choice: ModelChoice, possible: bool) -> None:
    """Buttons to load the model, continue, and release its memory."""
    done = state.state_of(now, "model") == "done"
    if not done and choice.name:
        memory = expected(now, ["model"])
        st.caption(f"Loading: {words(expected_seconds('model', now.recipe, read_pace(choice)), memory)}.")
        if possible:  # otherwise an error is shown
            warn(memory)
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            "Loaded" if done else "Load the model",
            key="model.load",
            type="secondary" if done else "primary",
            icon=":material/check:" if done else ":material/download:",
            disabled=done or not possible or now.job is not None or not choice.name,
            help="Reads the weights into a worker process, which keeps them for the next steps.",
        ):
            state.submit("model")
        page.continue_to("calibration", key="model", primary=done)
        held = resident(now)
        if held and st.button(
            "Unload",
            key="model.unload",
            icon=":material/eject:",
            help=f"Releases the memory of {plain(', '.join(held))}. Results stay, and the next job loads it again.",
        ):
            try:
                now.jobs.unload()
                st.rerun()
            except RunError as error:
                page.show_error(error)


now = state.context()
page.page_header("model")
controls, picture = page.stage()
with controls:
    choice = choose_model(now.recipe.model)
if choice != now.recipe.model:
    changed = now.recipe.change("model", **vars(choice))
    if choice.name != now.recipe.model.name:  # which may have no such task
        changed = changed.change("calibration", task="auto")
    state.set_recipe(changed)
    now = state.context()
with picture:
    page.job_panel()
    preview = describe(choice, now)
    if preview is not None:
        parts(preview)
    possible = preview is not None and fits(preview, choice)
with controls:
    actions(now, choice, possible)
if preview is not None:
    anatomy(preview)
page.show_code("model")
