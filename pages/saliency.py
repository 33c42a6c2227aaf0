"""Saliency: score of every unit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from nirvana.dashboard import selection, state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.agreement import criterion_against_criterion
from nirvana.dashboard.panels.charts import scores_protocol
from nirvana.dashboard.panels.criteria import criterion_title, describe_criterion, explain_criterion
from nirvana.dashboard.panels.saliency import (
    choose_layer,
    heatmaps,
    how_computed,
    one_layer,
    show_cost,
    spread,
    take_clicks,
    view_controls,
)
from nirvana.dashboard.panels.selected import detail
from nirvana.dashboard.replan import draft_plan, load_saliency
from nirvana.saliency.criteria import available


def choose_criterion(context: state.Context) -> str:
    """The criterion, what it measures, and the button that computes the scores."""
    st.session_state.setdefault("saliency.criterion", context.recipe.saliency.criterion)
    criterion = st.selectbox(
        "Criterion",
        available(),
        key="saliency.criterion",
        format_func=criterion_title,
        help="The measure of a unit's importance. Each criterion can use the shared or its published allocation.",
    )
    if criterion != context.recipe.saliency.criterion:
        state.set_recipe(context.recipe.change("saliency", criterion=criterion))
        st.rerun()
    st.caption(describe_criterion(criterion).partition(". ")[0].rstrip(".") + ".")
    return criterion


def actions(context: state.Context) -> None:
    """The button that scores the units, and the link to the next page."""
    done = state.step_state("saliency") == "done"
    if not done:
        show_cost(context)
    with st.container(horizontal=True):
        if st.button(
            "Scores are current" if done else "Score the units",
            key="saliency.run",
            type="secondary" if done else "primary",
            disabled=done or context.job is not None,
            help="Also computes earlier steps that are not current.",
        ):
            state.submit("saliency")
        page.continue_to("allocation", key="saliency", primary=done)


context = state.context()
page.page_header("saliency")
controls, picture = page.stage()
with controls:
    criterion = choose_criterion(context)
scores = load_saliency(context.run)
sections: dict[str, Callable[[], None]] = {"The criterion": partial(explain_criterion, criterion)}
with picture:
    page.job_panel()
    if scores is None:
        page.empty_state("saliency", missing="calibration")
if scores is None:
    with controls:
        actions(context)
else:
    protocol = scores_protocol(context.run, scores)
    draft = draft_plan(scores, context.recipe.allocation, context.run)
    with controls:
        stack = selection.stack_control(scores.layout, "saliency.stack")
        take_clicks(scores, stack)
        choose_layer(scores)
        detail("saliency", scores, draft.plan)
        view = view_controls(scores)
        actions(context)
    with picture:
        if state.step_state("saliency") == "stale":
            st.warning("These scores belong to earlier choices. Score the units to bring them up to date.")
        heatmaps(scores, stack, view, draft.plan, protocol)
        st.caption(protocol)
        if draft.error is not None:
            st.info(f"No cut is drawn. {draft.error}")
    sections = {
        "Layer": partial(one_layer, scores, stack, view, draft.plan, protocol),
        "Spread": partial(spread, scores, stack, protocol),
        "Another criterion": partial(criterion_against_criterion, context, scores, stack, draft.plan),
        **sections,
        "Computation": partial(how_computed, scores),
    }
page.tabs("saliency.tabs", sections)
page.show_code("saliency")
