"""Prune: remove the units, and compare sizes before and after."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from nirvana.dashboard import selection, state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.charts import scores_protocol, show_chart
from nirvana.dashboard.panels.exports import chosen_export, exports
from nirvana.dashboard.panels.messages import show_notes
from nirvana.dashboard.panels.metrics import metric
from nirvana.dashboard.panels.prune import compensated, compensation_controls, preview, show_cost
from nirvana.dashboard.panels.selected import detail, over_layers, take_layer_click
from nirvana.dashboard.replan import draft_plan, load_saliency
from nirvana.plan import PruningPlan
from nirvana.reporting.figures import prune as figures
from nirvana.reporting.text import megabytes, millions, plain
from nirvana.runs.results import PruneSummary


def actions(context: state.Context, possible: bool) -> None:
    """One main button: prune first, then compare."""
    states = {step: state.step_state(step) for step in ("model", "calibration", "saliency", "allocation", "prune")}
    todo = [step for step, now in states.items() if now != "done"]
    busy, recovers = context.job is not None, "recover" in context.recipe.steps
    show_cost(context, todo)
    with st.container(horizontal=True):
        if st.button(
            "Prune" if todo else "Pruned",
            key="prune.run",
            type="primary" if todo else "secondary",
            disabled=busy or not todo or not possible,
            help="Removes the units from a copy; the dense model is unchanged.",
        ):
            state.submit("prune")
        if st.button(
            ("Prune, recover and compare" if recovers else "Prune and compare")
            if todo
            else "Recover and compare"
            if recovers and state.step_state("recover") != "done"
            else "Compare with the dense model",
            key="prune.compare",
            type="secondary" if todo else "primary",
            disabled=busy or not possible,
            help="Measures perplexity, KL and size of each model next.",
        ):
            if state.step_state("evaluate") == "done":
                st.switch_page("pages/compare.py")
            state.submit("evaluate")
        if not todo and st.button(
            "Continue to Recover", key="prune.recover", type="tertiary", icon=":material/arrow_forward:"
        ):
            st.switch_page("pages/recover.py")


def sizes(plan: PruningPlan, protocol: str) -> None:
    """Sizes of each layer before and after, of the first stack: the picture of the page."""
    stack_sizes(plan, plan.layout.stacks[0], protocol)
    st.caption(protocol)


def stack_sizes(plan: PruningPlan, stack: str, protocol: str) -> None:
    names = list(dict.fromkeys(site.module for site in plan.layout if site.stack == stack))
    for name, column in zip(names, st.columns(len(names)), strict=True):
        with column:
            key = f"prune.sizes.{stack}.{name}"
            take_layer_click(key, plan.layout, stack)
            chart = over_layers(figures.sizes_by_layer(plan, stack, name), plan.layout, stack)
            show_chart(key, chart, protocol, clickable=True)


def result(plan: PruningPlan, summary: PruneSummary) -> None:
    """Size, memory and time."""
    before, after = summary.parameters["dense"], summary.parameters["pruned"]
    memory = summary.weight_bytes
    with st.container(horizontal=True):
        metric("Parameters", millions(after), f"{after / before - 1:.1%} of {millions(before)}")
        change = f"{memory['pruned'] / memory['dense'] - 1:.1%} of {megabytes(memory['dense'])}"
        metric("Memory of the weights", megabytes(memory["pruned"]), change)
        metric("Sparsity", f"{plan.sparsity:.3%}", meaning="Removed over prunable weights.")
        metric("Time to prune", f"{summary.seconds:.1f} s", summary.device)
    if summary.compensation:
        st.caption(plain(compensated(summary.compensation)))
    show_notes(summary.notes)


def modules(plan: PruningPlan) -> None:
    st.markdown("#### Which modules changed?")
    st.code(figures.module_diff(plan), language=None)


context = state.context()
page.page_header("prune")
scores = load_saliency(context.run)
draft = draft_plan(scores, context.recipe.allocation, context.run) if scores is not None else None
protocol = scores_protocol(context.run, scores) if scores is not None else ""
plan, summary = context.run.plan(), context.run.pruned()
controls, picture = page.stage()
with controls:
    choice = compensation_controls(context.recipe.prune)
    if choice != context.recipe.prune:
        state.set_recipe(context.recipe.change("prune", **vars(choice)))
        context = state.context()
    actions(context, possible=draft is None or draft.plan is not None)
with picture:
    page.job_panel()
    if draft is None:
        page.empty_state("prune", missing="saliency")
    elif draft.plan is None:
        page.show_error(draft.error)
    elif state.step_state("prune") != "done":
        preview(draft.plan, context.run)
        if summary is None:
            sizes(draft.plan, protocol)
    if plan is not None and summary is not None:
        if state.step_state("prune") == "stale":
            st.warning("What follows belongs to earlier choices. Prune to bring it up to date.")
        sizes(plan, protocol)
with controls:
    if scores is not None and selection.chosen():
        detail("prune", scores, plan or (draft.plan if draft else None))
if plan is not None and summary is not None:
    result(plan, summary)
    for stack in plan.layout.stacks[1:]:
        stack_sizes(plan, stack, protocol)
    sections: dict[str, Callable[[], None]] = {
        "Export": partial(exports, context, plan, summary, subject="pruned"),
        "Modules": partial(modules, plan),
    }
    page.tabs("prune.tabs", sections)
page.show_code("prune", *chosen_export("pruned"))
