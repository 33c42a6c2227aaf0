"""Expected duration and memory of the steps that a button starts."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.model import devices_now, inspected, loaded_card
from nirvana.errors import NirvanaError
from nirvana.reporting.estimates import in_words
from nirvana.reporting.memory import Expected, expected_memory
from nirvana.reporting.text import plain
from nirvana.runs.recipe import Recipe


def expected(now: state.Context, todo: Sequence[str], recipe: Recipe | None = None) -> Expected | None:
    """Expected memory of the steps `todo`; None where the model is unknown, or nothing is computed."""
    recipe = recipe or now.recipe
    name = recipe.model.name
    model = loaded_card(name, now) or (inspected(name)[0] if name else None)
    found = {device.name: device for device in devices_now()}
    device = found.get(recipe.model.device) or next(iter(found.values()))
    held = sum(each["bytes"] for each in now.jobs.resident() if each["device"] == device.name)
    if model is None:
        return None
    try:
        return expected_memory(todo, recipe, model, device.name, device.free + held)
    except NirvanaError:  # an impossible choice, which its page shows
        return None


def words(seconds: float | None, memory: Expected | None) -> str:
    """E.g. "about 12 s on this machine, 1.44 GB peak of 8.1 GB free"."""
    return in_words(seconds) + (f", {memory.words}" if memory is not None else "")


def warn(memory: Expected | None) -> None:
    """A warning with advice where the memory does not suffice, or a note where it forces a slower way."""
    if memory is None:
        return
    message, hint = memory.shortage
    if message:
        st.warning(f"**{plain(message)}**\n\n{plain(hint)}", icon=":material/memory:")
    elif memory.note:
        st.caption(memory.note)
