"""The sensitivity scan on the Allocation page: start it, see it, and protect what it points at."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.evaluation.sensitivity_result import Sensitivity
from nirvana.jobs.tasks.measurements import ScanRequest
from nirvana.plan import PruningPlan
from nirvana.reporting.estimates import forward_seconds, in_words
from nirvana.reporting.figures.chart import count
from nirvana.reporting.figures.sensitivity import most_sensitive, scan_heatmap, scan_words
from nirvana.runs.pace import read_pace
from nirvana.saliency.scores import Saliency

RATE, MOST = "allocation.scan.rate", "allocation.scan.layers"
LOW, HIGH = 0.05, 0.95  # of the slider


def scan(now: state.Context, scores: Saliency, plan: PruningPlan | None) -> None:
    """How far the predictions move when one module of one layer is pruned alone."""
    st.markdown("### What does each layer alone cost?")
    found = now.run.sensitivity()
    known = float(found.protocol["rate"]) if found else ScanRequest().rate
    st.session_state.setdefault(RATE, min(max(known, LOW), HIGH))  # the command line takes any rate
    with st.container(horizontal=True, vertical_alignment="bottom"):
        rate = st.slider(
            "Share of each module's units",
            min_value=LOW,
            max_value=HIGH,
            step=0.05,
            format="percent",
            key=RATE,
            help="Of each module alone, the lowest-scored units go, and all others stay.",
        )
        current = found is not None and found.protocol["rate"] == rate
        if st.button(
            "The scan is current" if current else "Scan",
            key="allocation.scan.run",
            icon=":material/network_check:",
            disabled=current or now.job is not None,
            help="Runs the model over the probe once for every module of every layer. The scores are those of the run.",
        ):
            state.start_task("sensitivity", rate=rate)
    if found is None:
        st.caption(_cost(now, scores))
        return
    show_chart("allocation.scan", scan_heatmap(found, scores.layout, plan), scan_words(found))
    _protect(found)


def _cost(now: state.Context, scores: Saliency) -> str:
    modules = sum(site.units > 1 for site in scores.layout.values())
    text = f"{count(modules, 'module')}, one pass over the probe each"
    recipe = now.run.recipe
    probe = recipe.calibration.probe_samples * recipe.calibration.probe_length
    return f"{text}: {in_words(forward_seconds((modules + 1) * probe, read_pace(recipe.model)))}."


def _protect(found: Sensitivity) -> None:
    layers = most_sensitive(found)
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
            help="The most sensitive layers keep every unit; the others lose more. Whether that is better shows on "
            "Compare: a scan prunes one module at a time and knows nothing of how losses add up.",
        )


def _set_protected(layers: list[int]) -> None:
    st.session_state["allocation.protected"] = layers
