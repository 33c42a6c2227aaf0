"""The sensitivity scan on the Allocation page, and protection of the most sensitive layers."""

from __future__ import annotations

import math

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.jobs.tasks.measurements import LOSS_CURVES, ScanRequest
from nirvana.loss_curves import PROBE, removed_at
from nirvana.plan import PruningPlan
from nirvana.reporting.estimates import forward_seconds, in_words
from nirvana.reporting.figures.chart import count
from nirvana.reporting.figures.sensitivity import loss_curves, most_sensitive, scan_heatmap, scan_words
from nirvana.runs.pace import read_pace
from nirvana.saliency.scores import Saliency

RATE, LEVEL, MOST = "allocation.scan.rate", "allocation.scan.level", "allocation.scan.layers"
LOW, HIGH = 0.05, 0.95  # of the slider


def scan(now: state.Context, scores: Saliency, plan: PruningPlan | None) -> None:
    """KL of each module pruned alone: at one level, or as loss curves."""
    st.markdown("### What does each layer alone cost?")
    found = now.run.sensitivity()
    usual = ScanRequest().levels[0]
    single = found.levels[0] if found and len(found.levels) == 1 else usual
    st.session_state.setdefault(RATE, min(max(single, LOW), HIGH))  # the command line takes any rate
    with st.container(horizontal=True, vertical_alignment="bottom"):
        rate = st.slider(
            "Share of each module's units",
            min_value=LOW,
            max_value=HIGH,
            step=0.05,
            format="percent",
            key=RATE,
            help="The lowest-scored units of each module alone are removed, and all others stay.",
        )
        current = found is not None and rate in found.levels
        if st.button(
            "The scan is current" if current else "Scan",
            key="allocation.scan.run",
            icon=":material/network_check:",
            disabled=current or now.job is not None,
            help="Runs the model over the probe once for every module of every layer. The scores are those of the run.",
        ):
            state.start_task("sensitivity", levels=[rate])
        measured = found is not None and found.levels == LOSS_CURVES.levels
        if st.button(
            "The loss curves are current" if measured else "Measure loss curves",
            key="allocation.curves.run",
            icon=":material/show_chart:",
            disabled=measured or now.job is not None,
            help=f"For the measured allocation: each module at {len(LOSS_CURVES.levels)} levels, compensated by least "
            "squares, on longer probes. It can be cancelled; the next start continues.",
        ):
            state.start_task("sensitivity", **LOSS_CURVES.to_json())
    if found is None:
        st.caption(_cost(now, scores))
        return
    level = found.levels[0]
    if len(found.levels) > 1:
        show_chart("allocation.curves", loss_curves(found, scores.layout, plan), scan_words(found))
        level = st.select_slider("Level of the map", found.levels, key=LEVEL, format_func=lambda share: f"{share:.0%}")
    show_chart("allocation.scan", scan_heatmap(found, level, scores.layout, plan), scan_words(found))
    _protect(most_sensitive(found.at(level)))


def _cost(now: state.Context, scores: Saliency) -> str:
    recipe = now.run.recipe
    modules = [site.units for site in scores.layout.values() if site.units > 1]
    curves = sum(len({removed_at(level, units) for level in LOSS_CURVES.levels}) for units in modules)
    probe, longer = recipe.calibration.probe_samples * recipe.calibration.probe_length, math.prod(PROBE)
    pace = read_pace(recipe.model)
    # A pass begins at the module's own layer: half the model on average.
    return (
        f"Scan: {count(len(modules), 'module')}, {in_words(forward_seconds((len(modules) / 2 + 1) * probe, pace))}. "
        f"Loss curves: {curves:,} measurements, {in_words(forward_seconds((curves / 2 + 1) * longer, pace))}."
    )


def _protect(layers: list[int]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        number = st.number_input(
            "Layers", min_value=1, max_value=len(layers), value=min(2, len(layers)), step=1, key=MOST
        )
        chosen = sorted(layers[: int(number)])
        st.button(
            f"Protect {'layer' if len(chosen) == 1 else 'layers'} {', '.join(map(str, chosen))}",
            key="allocation.scan.protect",
            icon=":material/shield:",
            on_click=_set_protected,
            args=(chosen,),
            help=(
                "The most sensitive layers keep every unit; the others lose more. Measure the result on Compare: a "
                "scan prunes one module at a time and does not predict joint losses."
            ),
        )


def _set_protected(layers: list[int]) -> None:
    st.session_state["allocation.protected"] = layers
