"""What pruning will do, what it did, and the checkpoint."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from nirvana.layout import KV_GROUP, NEURON
from nirvana.plan import PruningPlan
from nirvana.runs.results import PruneSummary
from nirvana.runs.store import Run
from nirvana.ui import state
from nirvana.ui.figures.chart import count
from nirvana.ui.text import megabytes


def preview(plan: PruningPlan, run: Run) -> None:
    """What would go, in a sentence, and what the model would weigh."""
    parts = []
    for kind in (KV_GROUP, NEURON):
        sites = plan.layout.pool(kind)
        units = sum(plan.layout[site].units for site in sites)
        gone = units - sum(len(plan.get(site, ())) for site in sites)
        if sites:
            parts.append(f"**{gone:,}** of {count(units, kind)}")
    before, after = plan.layout.parameters, plan.pruned_layout.parameters
    text = f"Pruning removes {' and '.join(parts)}: {plan.removed:,} parameters, {plan.sparsity:.2%} of those in "
    text += f"attention and MLP. The model goes from {before / 1e6:,.1f} M to **{after / 1e6:,.1f} M** parameters"
    card = run.model()
    if card and before:
        size = card.weight_bytes * after / before
        text += f", from {megabytes(card.weight_bytes)} to about **{megabytes(size)}** of memory"
    st.markdown(text + ".")


def cost(run: Run, steps: list[str]) -> str:
    """What will be computed, where, and how long the same steps took before."""
    card = run.model()
    seconds = {step: info["seconds"] for step in steps if (info := run.info(step)) and info.get("seconds") is not None}
    text = f"To do: {', '.join(steps)}" if steps else "Everything is current"
    if card:
        text += f"; on {card.device} in {card.dtype}"
    if seconds:
        text += f". Last time: {', '.join(f'{step} {value:,.1f} s' for step, value in seconds.items())}"
    return text + "."


def checkpoint(context: state.Context, summary: PruneSummary) -> None:
    """Write the pruned model to a file on demand, and hand it over; nothing is read before the click."""
    st.markdown("#### Checkpoint")
    st.markdown(
        f"safetensors and JSON in one archive, about {megabytes(summary.weight_bytes['pruned'])}. "
        "`nirvana.load_model` opens the unpacked folder."
    )
    exports = [job for job in context.jobs.jobs(context.run.id) if job.task == "export"]
    done = next((job for job in exports if job.status == "done" and job.result), None)
    path = Path(str(done.result["path"])) if done and done.result else None
    if path is not None and path.is_file():
        st.download_button(
            f"Download the checkpoint ({megabytes(path.stat().st_size)})",
            data=path.read_bytes,
            file_name=path.name,
            mime="application/zip",
            key="prune.download",
            on_click="ignore",
        )
        return
    if st.button(
        "Prepare the checkpoint",
        key="prune.export",
        disabled=context.job is not None,
        help="Writes the pruned model's files; this takes disk space until the run is deleted.",
    ):
        state.start_task("export")
