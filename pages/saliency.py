"""Saliency: score of every unit."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.agreement import criterion_against_criterion
from nirvana.dashboard.panels.charts import scores_protocol
from nirvana.dashboard.panels.criteria import criterion_title, describe_criterion, explain_criterion
from nirvana.dashboard.panels.saliency import LAYER, how_computed, one_layer, overview, take_click
from nirvana.dashboard.replan import draft_plan, load_saliency
from nirvana.saliency.criteria import available


def choose_criterion(context: state.Context) -> None:
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
    st.caption(describe_criterion(criterion))
    with st.expander("What does this criterion measure?", key="saliency.about"):
        explain_criterion(criterion)
    done = state.step_state("saliency") == "done"
    if st.button(
        "Scores are current" if done else "Score the units",
        key="saliency.run",
        type="secondary" if done else "primary",
        disabled=done or context.job is not None,
        help="Also computes earlier steps that are not current.",
    ):
        state.submit("saliency")


context = state.context()
page.page_header("saliency")
choose_criterion(context)
page.job_panel()
scores = load_saliency(context.run)
if scores is None:
    page.empty_state("saliency", missing="calibration")
    page.show_code("saliency")
    st.stop()
if state.step_state("saliency") == "stale":
    st.warning("These scores belong to earlier choices. Score the units to bring them up to date.")
protocol = scores_protocol(context.run, scores)
stacks = scores.layout.stacks
stack = stacks[0]
if len(stacks) > 1:
    chosen = st.segmented_control(
        "Stack",
        stacks,
        default=stack,
        required=True,
        key="saliency.stack",
        bind="query-params",
        format_func=lambda name: name.capitalize(),
        help="The encoder reads the input; the decoder generates the output, with cross-attention to the encoder.",
    )
    stack = chosen if chosen in stacks else stack
take_click(scores, stack)
draft = draft_plan(scores, context.recipe.allocation, context.run.loss_curves())
above = st.container()  # filled once the layer is known
st.markdown("### One layer")
layer = st.select_slider(
    "Layer",
    scores.layout.layers(stack),
    key=LAYER,
    bind="query-params",
    help="A click on a row of a heatmap also chooses its layer.",
)
with above:
    overview(scores, stack, layer, draft.plan, protocol)
if draft.error is not None:
    st.info(f"No cut is drawn. {draft.error}")
one_layer(scores, stack, layer, draft.plan, protocol)
criterion_against_criterion(context, scores, stack, draft.plan)
how_computed(scores)
page.show_code("saliency")
