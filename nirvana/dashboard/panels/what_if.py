"""Edits of the plan by hand on the Allocation page, with their predicted and measured cost."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from nirvana.allocation.edits import Edits, Layer, read_edits
from nirvana.allocation.prediction import predicted_kl, removed_score
from nirvana.dashboard import selection, state
from nirvana.dashboard.panels.metrics import metric
from nirvana.dashboard.panels.selected import keeps, layer_words, module_control
from nirvana.dashboard.replan import Draft, draft_plan
from nirvana.errors import PlanError
from nirvana.evaluation.plan_trials import PlanTrials
from nirvana.jobs.tasks.what_if import compensation_words
from nirvana.layout import Layout, Site
from nirvana.plan import PruningPlan
from nirvana.reporting.estimates import forward_seconds, in_words
from nirvana.reporting.figures.chart import count, short
from nirvana.reporting.plan_trials import compared, protocol_words, rows
from nirvana.reporting.text import millions
from nirvana.runs.pace import read_pace
from nirvana.saliency.scores import Saliency

UNITS, WORDS = "allocation.edit.units", "allocation.edit.words"
VERSION = "allocation.edit.version"
HEIGHT = 300  # pixels of the table of units


def what_if(now: state.Context, scores: Saliency, draft: Draft) -> None:
    """Controls of the edits beside what they change."""
    choice = now.recipe.allocation
    st.markdown(
        "Keep or remove units and layers by hand. The rule's plan holds for all others, and its budget is not restored."
    )
    if choice.uniform or choice.rounds > 1:
        st.caption("A plan of equal widths, or of several rounds, cannot be edited by unit.")
        return
    rule = draft_plan(scores, choice.with_values(edits=()), now.run)
    if rule.plan is None:
        st.caption("There is no plan with these choices.")
        return
    edits = _edits(now, scores.layout)
    controls, effect = st.columns((2, 3), gap="large")
    with controls:
        _controls(scores, rule.plan, edits)
    with effect:
        _listed(edits)
        if draft.plan is not None:
            _effect(now, scores, rule.plan, draft.plan)
        _measured(now, draft.plan)


def unit_buttons(key: str, layout: Layout, site: Site, unit: int, plan: PruningPlan | None) -> None:
    """A button that keeps or removes a unit by hand, and one that leaves it to the rule again."""
    now = state.context()
    if plan is None or plan.uniform or now.recipe.allocation.rounds > 1:
        return
    edits = _edits(now, layout)
    if unit in edits.units.get(site, {}):
        change, label, icon = edits.with_unit(site, unit, None), "Leave it to the rule", ":material/undo:"
    elif keeps(plan, site, unit):
        change, label, icon = edits.with_unit(site, unit, False), "Remove it by hand", ":material/remove:"
    else:
        change, label, icon = edits.with_unit(site, unit, True), "Keep it by hand", ":material/add:"
    st.button(
        label,
        key=f"{key}.edit",
        icon=icon,
        on_click=_set(change),
        help="Edits the plan of your choices. The Allocation page shows its cost under What if.",
    )


def _controls(scores: Saliency, rule: PruningPlan, edits: Edits) -> None:
    layout = scores.layout
    stack = selection.stack_control(layout, "allocation.edit.stack")
    layer = selection.layer_control(layout, "allocation.edit.layer")
    module_control(layout, "allocation.edit.module")
    _layer_buttons(layout, rule, (stack, layer), edits)
    _units(scores, rule, selection.selected(layout).site, edits)


def _layer_buttons(layout: Layout, rule: PruningPlan, layer: Layer, edits: Edits) -> None:
    state_now = edits.layers.get(layer)
    with st.container(horizontal=True):
        for label, kept, icon in (
            ("Keep the layer", True, ":material/shield:"),
            ("Remove the layer", False, ":material/layers_clear:"),
        ):
            chosen = state_now is kept
            st.button(
                label,
                key=f"allocation.edit.layer.{'keep' if kept else 'remove'}",
                icon=icon,
                type="primary" if chosen else "secondary",
                disabled=not kept and len(layout.stacks) > 1,
                on_click=_set(edits.with_layer(layer, None if chosen else kept)),
                help="Press again to leave the layer to the rule. Edits of its units are replaced.",
            )
    st.caption(f"By the rule: {layer_words(layout, *layer, rule)}")


def _units(scores: Saliency, rule: PruningPlan, site: Site, edits: Edits) -> None:
    """The units of a module with a box each, best first."""
    layer = site.stack, site.layer
    if edits.layers.get(layer) is False:
        st.caption("The layer is removed.")
        return
    table = unit_table(scores, rule, site, edits)
    key = f"{UNITS}.{st.session_state.setdefault(VERSION, 0)}"

    def changed() -> None:
        marks = st.session_state[key]["edited_rows"]
        new = edits
        for row, values in marks.items():
            unit = int(table["unit"].iloc[int(row)])
            default = edits.layers.get(layer) is True or keeps(rule, site, unit)
            new = new.with_unit(site, unit, None if values["kept"] == default else bool(values["kept"]))
        _set(new)()

    st.data_editor(
        table,
        key=key,
        hide_index=True,
        height=HEIGHT,
        disabled=["unit", "score", "rank"],
        column_config={
            "kept": st.column_config.CheckboxColumn("kept", help="By the rule or by hand."),
            "unit": st.column_config.NumberColumn(scores.layout[site].kind, format="%d"),
            "score": st.column_config.NumberColumn(format="%.3g"),
            "rank": st.column_config.NumberColumn(format="localized", help="Over all layers; 1 is removed first."),
        },
        on_change=changed,
    )


def unit_table(scores: Saliency, rule: PruningPlan, site: Site, edits: Edits) -> pd.DataFrame:
    """One row a unit, best first: kept, unit, score, rank."""
    kept = pd.Series(edits.layers.get((site.stack, site.layer)) is True, index=range(scores.layout[site].units))
    kept[rule.kept.get(site, [])] = True
    for unit, stays in edits.units.get(site, {}).items():
        kept[unit] = stays
    table = pd.DataFrame(
        {"kept": kept, "unit": kept.index, "score": scores[site].astype(float), "rank": scores.ranks[site] + 1}
    )
    return table.sort_values("rank", ascending=False, ignore_index=True)


def _listed(edits: Edits) -> None:
    """The edits, each of which can be taken back."""
    words = list(edits.words)
    st.session_state[WORDS] = words
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.multiselect(
            "Edits by hand",
            words,
            key=WORDS,
            placeholder="None yet",
            on_change=_set_words,
            help="Take one out of the list to leave it to the rule. On the command line: `--edit` with the same words.",
        )
        st.button(
            "Undo all", key="allocation.edit.clear", icon=":material/undo:", disabled=not words, on_click=_set(Edits())
        )


def _effect(now: state.Context, scores: Saliency, rule: PruningPlan, plan: PruningPlan) -> None:
    """Parameters and predicted losses with and without the edits."""
    words = plan.edits
    curves, before, after = now.run.loss_curves(), rule.pruned_layout.parameters, plan.pruned_layout.parameters
    with st.grid(4, min_column_width=130):
        metric("Parameters", millions(after), f"{after - before:+,}" if words else "as by the rule")
        metric("Sparsity", f"{plan.sparsity:.2%}", f"{plan.sparsity - rule.sparsity:+.2%}" if words else "")
        score, base = removed_score(scores, plan), removed_score(scores, rule)
        metric(
            "Score removed",
            f"{score:.2%}",
            f"{score - base:+.2%}" if words else "",
            "Share of the summed scores: what the criterion itself predicts.",
        )
        if curves is not None:
            kl, old = predicted_kl(curves, scores, plan), predicted_kl(curves, scores, rule)
            metric(
                "Predicted KL",
                f"{short(kl)} nats",
                f"{kl - old:+.3g}" if words else "",
                "The sum of each module's loss curve, measured alone and compensated by least squares. Losses of "
                "several modules do not add up exactly.",
            )
    if curves is None:
        st.caption("With loss curves, measured under Loss curves, KL is predicted too.")


def _measured(now: state.Context, plan: PruningPlan | None) -> None:
    """The button that measures, and all plans that were."""
    trials, prune = now.run.plan_trials(), now.run.recipe.prune
    known = trials is not None and plan is not None and trials.of(plan, compensation_words(prune)) is not None
    stale = state.step_state("saliency") == "stale"
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            "Measured" if known else "Measure this plan",
            key="allocation.edit.measure",
            icon=":material/check:" if known else ":material/speed:",
            disabled=known or stale or plan is None or now.job is not None,
            help="Prunes a copy with and without the edits, with the run's compensation, and measures KL on its probe.",
        ):
            state.start_task("what-if", **now.recipe.allocation.to_json())
        st.caption(_cost(now))
    if trials is not None:
        _table(trials)


def _table(trials: PlanTrials) -> None:
    table = pd.DataFrame(rows(reversed(trials.items)))
    st.dataframe(table, key="allocation.edit.trials", hide_index=True)
    last = trials.items[-1]
    alike = last.allocation, last.compensation
    rules = (item for item in trials.items if not item.edits)
    before = next((item for item in rules if (item.allocation, item.compensation) == alike), None)
    if last.edits and before is not None:
        st.markdown(compared(last, before))
    st.caption(protocol_words(trials))


def _cost(now: state.Context) -> str:
    recipe = now.run.recipe
    tokens = 3 * recipe.calibration.probe_samples * recipe.calibration.probe_length
    if recipe.prune.compensation != "none":
        tokens += recipe.prune.samples * recipe.prune.length
    return f"Two plans on {count(recipe.calibration.probe_samples, 'probe window')}: " + in_words(
        forward_seconds(tokens, read_pace(recipe.model))
    )


def _edits(now: state.Context, layout: Layout) -> Edits:
    """The draft's edits; none where they do not fit the model."""
    try:
        return read_edits(now.recipe.allocation.edits, layout)
    except PlanError:
        return Edits()


def _set(edits: Edits) -> Callable[[], None]:
    """Callback: make these the edits of the draft."""

    def apply() -> None:
        _replace(edits.words)

    return apply


def _set_words() -> None:
    _replace(tuple(st.session_state[WORDS]))


def _replace(words: tuple[str, ...]) -> None:
    state.set_recipe(state.context().recipe.change("allocation", edits=words))
    st.session_state[VERSION] = (
        st.session_state.get(VERSION, 0) + 1
    )  # a table with the old marks would apply them again
