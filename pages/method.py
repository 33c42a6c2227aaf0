"""Method: the paper's formulas beside pictures of the open run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import losses, method, page, theory
from nirvana.dashboard.panels.glossary import glossary

PARAMETER = "topic"  # of the URL: the open tab

now = state.context()
page.page_header("method")
page.job_panel()
sections: dict[str, Callable[[], None]] = {
    "Kernel": method.kernel,
    "One weight": method.removed,
    "Unit": partial(method.unit, now),
    "KV groups": partial(method.groups, now),
    "First order": partial(theory.first_order, now),
    "gamma": partial(method.gamma, now),
    "Text by KL": partial(theory.text_by_kl, now),
    "Theorem": partial(theory.theorem, now),
    losses.LABEL: losses.losses,
    "Glossary": glossary,
}
topics = {label.lower().replace(" ", "-"): label for label in sections}
wanted = topics.get(st.query_params.get(PARAMETER, ""))
if wanted is not None:
    st.session_state.setdefault(losses.TABS, wanted)
page.tabs(losses.TABS, sections)
chosen = st.session_state.get(losses.TABS)
st.query_params[PARAMETER] = next((topic for topic, label in topics.items() if label == chosen), next(iter(topics)))
