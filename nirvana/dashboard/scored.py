"""Runs whose scores are of the open run's model."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from nirvana.dashboard import state
from nirvana.runs.store import EXAMPLE, Run


class Scored(NamedTuple):
    """Criterion of a run's scores, and the hash of its model's weights."""

    criterion: str
    weights: str


def others_of_model(now: state.Context) -> dict[str, Run]:
    """Id -> the visible run, other than the open one, with current scores of the same weights."""
    card = now.run.model()
    runs = [*state.visible_runs(), now.store.open(EXAMPLE)]
    found = {}
    for run in runs:
        each = _scored(run.id, _version(run), run) if run.id != now.run.id else None
        if each and card and each.weights == card.hash:
            found[run.id] = run
    return found


def _version(run: Run) -> str:
    info = run.info("saliency")
    return f"{run.name} {run.recipe.fingerprint('saliency')} {info.get('file') if info else ''}"


@st.cache_data(max_entries=200, show_spinner=False)
def _scored(run_id: str, version: str, _run: Run) -> Scored | None:
    """None unless the run has current scores."""
    card = _run.model() if _run.step_state("saliency") == "done" else None
    return None if card is None else Scored(_run.recipe.saliency.criterion, card.hash)
