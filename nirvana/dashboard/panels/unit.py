"""Parts of the Unit page: choice, text that drives the unit, standing by criterion, and measured removal."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import selection, state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.criteria import criterion_title
from nirvana.dashboard.panels.metrics import metric
from nirvana.dashboard.panels.saliency import clicked_unit
from nirvana.dashboard.panels.selected import keeps, module_control
from nirvana.dashboard.replan import draft_plan, load_saliency
from nirvana.dashboard.scored import others_of_model
from nirvana.evaluation.ablation_results import Ablation, Ablations
from nirvana.evaluation.unit_inspection_results import UnitInspection
from nirvana.layout import Layout, Site
from nirvana.plan import PruningPlan
from nirvana.reporting.driving import excerpts_html
from nirvana.reporting.figures import distributions
from nirvana.reporting.figures import unit as figures
from nirvana.reporting.figures.chart import count, short
from nirvana.reporting.figures.names import part_colour
from nirvana.reporting.figures.saliency import best_first
from nirvana.saliency.scores import Saliency

CURVE, NUMBER = "unit.curve", "unit.number"
SHOWN = 5  # excerpts in the picture
HEIGHT = 210  # pixels of the curve
NEURON_WORDS = "the input of the output projection (down_proj) at it, which may be negative"
GROUP_WORDS = "the norm of its heads' output, which the output projection (o_proj) reads"


def take_click(layout: Layout) -> None:
    """Select the unit clicked in the curve; called before the controls are drawn."""
    unit = clicked_unit(CURVE)
    if unit is not None:
        selection.choose(layout, unit=unit)
        st.rerun()


def choose_unit(scores: Saliency) -> tuple[Site, int]:
    """Stack, module, layer and number of the unit; by default the best one of the module."""
    layout = scores.layout
    selection.stack_control(layout, "unit.stack")
    selection.layer_control(layout, "unit.layer")
    module_control(layout, "unit.module")
    site = selection.selected(layout).site
    if selection.selected(layout).unit is None:
        selection.choose(layout, unit=int(best_first(scores, site)[0]))
    unit = selection.selected(layout).unit
    assert unit is not None
    place = layout[site]
    st.session_state[NUMBER] = unit
    st.number_input(
        f"{place.kind[0].upper()}{place.kind[1:]}, 0 to {place.units - 1:,}",
        min_value=0,
        max_value=place.units - 1,
        step=1,
        key=NUMBER,
        help="Also chosen by a click in the curve below, or in a chart of the Saliency page.",
        on_change=selection.take(layout, NUMBER, "unit"),
    )
    return site, unit


def actions(now: state.Context, site: Site, unit: int, *, inspected: bool, removed: bool) -> None:
    """Buttons that compute; each result is kept with the run."""
    stale = state.step_state("saliency") == "stale"
    busy = now.job is not None or stale
    with st.container(horizontal=True):
        if st.button(
            "Text found" if inspected else "Find what drives it",
            key="unit.inspect",
            type="secondary" if inspected else "primary",
            icon=":material/check:" if inspected else ":material/manage_search:",
            disabled=inspected or busy,
            help="The model reads the calibration set once.",
        ):
            state.start_task("inspect-unit", site=site.key, unit=unit)
        if st.button(
            "Removal measured" if removed else "Measure its removal",
            key="unit.remove",
            icon=":material/check:" if removed else ":material/content_cut:",
            disabled=removed or busy,
            help="The model reads held-out windows with and without this unit alone, all others whole.",
        ):
            state.start_task("ablate-unit", site=site.key, unit=unit)
    if stale:
        st.caption("The scores belong to earlier choices: score the units first.")


def drives(found: UnitInspection) -> None:
    """The text that drives the unit, shaded."""
    st.markdown(f"#### What drives it?\n{drive_words(found)}")
    with st.container(border=True, key="unit.excerpts"):
        st.html(excerpts_html(found, SHOWN))


def drive_words(found: UnitInspection) -> str:
    """One sentence: where the unit is driven most, and how selective it is."""
    first, median = found.excerpts[0], found.quantiles[len(found.quantiles) // 2]
    times = f", {found.largest / median:,.0f} times the median" if median > 0 else ""
    return (
        f"Its largest {'value' if found.kind == 'neuron' else 'norm'} is {short(first.value)}{times} over "
        f"{count(found.protocol['positions'], 'position')}. The darker a token, the larger; the peak is in bold."
    )


def curve(scores: Saliency, site: Site, unit: int, plan: PruningPlan | None, protocol: str) -> None:
    """The scores of its module, with the unit marked."""
    chart = distributions.score_curve(scores, site, plan, unit=unit, height=HEIGHT)
    show_chart(CURVE, chart, protocol, clickable=True)


def removal(found: Ablation, measured: Ablations) -> None:
    """Measured change of the output and KL without the unit, beside the first-order prediction."""
    size = abs(found.change)
    missed = f"{abs(found.residual) / size:.0%} of the change is not predicted" if size > 0 else "no change"
    with st.grid(4, min_column_width=170):
        metric(
            "Predicted change of f",
            f"{found.first_order:+.3g}",
            "first order",
            "Minus the sum of weight times gradient over the unit's columns of the output projection.",
        )
        metric("Measured change of f", f"{found.change:+.3g}", missed, "f is NIRVANA's objective, on held-out windows.")
        metric("Score", short(found.score), measured.protocol.get("criterion", ""), "Bounds the size of the change.")
        metric(
            "KL without it",
            f"{short(found.kl)} nats",
            f"± {found.kl_error:.2g}",
            "KL divergence from the dense model's predictions to those without this unit, per token, with its "
            "standard error over windows.",
        )
    protocol = measured.protocol
    st.caption(
        f"{first_order_words(found)} On {count(protocol['samples'], 'held-out window')} of "
        f"{count(protocol['length'], 'token')}; f of the dense model is {protocol['output']:.4g}."
    )


def first_order_words(found: Ablation) -> str:
    """How good first order is here, in a sentence."""
    if found.change == 0:
        return "Removing it changes nothing."
    if found.change * found.first_order < 0:
        return "First order predicts the **wrong sign** here."
    factor = found.first_order / found.change
    close = "close to the measurement" if 0.8 <= factor <= 1.25 else f"{factor:.2g} times the measured change"
    return f"First order predicts a change {'' if close.startswith('close') else 'of '}{close}."


def criteria(now: state.Context, scores: Saliency, site: Site, unit: int, plan: PruningPlan | None) -> None:
    """Score and rank by every criterion that this model was scored by."""
    fate = None if plan is None else keeps(plan, site, unit)
    title = criterion_title(scores.criterion)
    found = [figures.standing(scores, site, unit, title, now.run.name, fate)]
    seen = {scores.criterion}
    for run in others_of_model(now).values():
        criterion = run.recipe.saliency.criterion
        if criterion in seen:
            continue
        other = load_saliency(run)
        if other is None or other.layout != scores.layout:
            continue
        seen.add(criterion)
        theirs = draft_plan(other, now.recipe.allocation, run).plan
        fate = None if theirs is None else keeps(theirs, site, unit)
        found.append(figures.standing(other, site, unit, criterion_title(criterion), run.name, fate))
    kind = scores.layout[site].kind
    show_chart("unit.ranks", figures.ranks_by_criterion(found, kind, part_colour(site.module)))
    if len(found) == 1:
        st.caption("Score this model by another criterion, in a run of its own, to compare them here.")


def tokens(found: UnitInspection | None) -> None:
    """Mean size by token."""
    if found is None:
        st.caption("Find what drives the unit first.")
    else:
        show_chart("unit.tokens", figures.driving_tokens(found), inspection_protocol(found))


def excerpts(found: UnitInspection | None) -> None:
    """All excerpts."""
    if found is None:
        st.caption("Find what drives the unit first.")
        return
    st.html(excerpts_html(found))
    words = NEURON_WORDS if found.kind == "neuron" else GROUP_WORDS
    st.caption(
        f"The value is {words}. One excerpt a calibration sample, the samples with the largest sizes first; blue is "
        f"positive, orange negative. {inspection_protocol(found)}"
    )


def weights(found: UnitInspection | None, layout: Layout) -> None:
    """Norms of the unit's weights."""
    if found is None:
        st.caption("Find what drives the unit first: the norms are computed with it.")
        return
    numbers = {name: st.column_config.NumberColumn(format="%.3g") for name in ("norm", "mean of the module")}
    table = figures.weight_table(found, layout[found.site].units)
    st.dataframe(table, hide_index=True, key="unit.weights", column_config=numbers)
    st.caption("Euclidean norms of the unit's rows or columns. Magnitude alone says little about what it does.")


def inspection_protocol(found: UnitInspection) -> str:
    """E.g. "Calibration set 3f2a91c0, 4,096 positions of 32 samples."."""
    protocol = found.protocol
    return (
        f"Calibration set {str(protocol['inputs'])[:8]}, {count(protocol['positions'], 'position')} of "
        f"{count(protocol['samples'], 'sample')}."
    )


def about() -> None:
    """Explanation of the page."""
    st.markdown(
        "**What drives it**: the model reads the calibration set, and each position is rated by what the unit hands to "
        f"its output projection. For a neuron that is {NEURON_WORDS}; for a KV group, {GROUP_WORDS}. Text that drives "
        "a unit shows when it is active, not what it is for.\n\n"
        "**Its removal**: its columns of the output projection are set to zero, which gives the outputs of the model "
        "without it. First order predicts the change of $f$ by the gradient, minus the sum of weight times gradient; "
        "the score takes absolute values first, so it bounds that change and has no sign."
    )


def measured(now: state.Context, site: Site, unit: int) -> tuple[Ablation, Ablations] | None:
    """The measured removal of a unit, from the run's own removals or its draw of units."""
    for found in (now.run.removals(), now.run.ablations()):
        item = None if found is None else found.of(site, unit)
        if found is not None and item is not None:
            return item, found
    return None
