"""Unit: what one KV group or neuron does."""

from __future__ import annotations

from functools import partial

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels import unit as panels
from nirvana.dashboard.panels.charts import scores_protocol
from nirvana.dashboard.panels.selected import layer_words, unit_words
from nirvana.dashboard.panels.what_if import unit_buttons
from nirvana.dashboard.replan import draft_plan, load_saliency

context = state.context()
page.page_header("unit")
scores = load_saliency(context.run)
if scores is None:
    page.job_panel()
    page.empty_state("unit", missing="saliency")
    st.stop()
protocol = scores_protocol(context.run, scores)
plan = draft_plan(scores, context.recipe.allocation, context.run).plan
controls, picture = page.stage()
with controls:
    panels.take_click(scores.layout)
    site, unit = panels.choose_unit(scores)
inspections = context.run.inspections()
found = None if inspections is None else inspections.of(site, unit)
removed = panels.measured(context, site, unit)
with controls:
    panels.actions(context, site, unit, inspected=found is not None, removed=removed is not None)
    unit_buttons("unit", scores.layout, site, unit, plan)
with picture:
    page.job_panel()
    st.markdown(unit_words(scores, site, unit, plan))
    panels.curve(scores, site, unit, plan, protocol)
    if found is not None:
        panels.drives(found)
    if removed is not None:
        panels.removal(*removed)
    st.caption(f"{layer_words(scores.layout, site.stack, site.layer, plan)} {protocol}")
page.tabs(
    "unit.tabs",
    {
        "Criteria": partial(panels.criteria, context, scores, site, unit, plan),
        "Tokens": partial(panels.tokens, found),
        "All excerpts": partial(panels.excerpts, found),
        "Weights": partial(panels.weights, found, scores.layout),
        "How it works": panels.about,
    },
)
