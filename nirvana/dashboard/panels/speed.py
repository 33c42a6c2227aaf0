"""Speed of the dense and the pruned model, and quality against bytes beside quantised copies, on the Compare page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from nirvana.costs import PHASES
from nirvana.dashboard import state
from nirvana.dashboard.panels.charts import show_chart
from nirvana.evaluation.schemes import SCHEMES
from nirvana.evaluation.speed_report import SpeedReport
from nirvana.reporting import code
from nirvana.reporting.figures import speed as figures
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import megabytes, plain
from nirvana.runs.speed import SPEED, SpeedRequest
from nirvana.schema import limits

QUANTISED = "compare.speed.schemes"
LABELS = {
    "batch": ("Prompts at once", 1),
    "prompt": ("Tokens of the prompt", 64),
    "new_tokens": ("New tokens", 16),
    "repeats": ("Turns of each model", 1),
}


def speed(now: state.Context) -> None:
    """Results and controls of speed and quality against bytes."""
    if now.run.info("prune") is None:
        return
    busy = now.job is not None
    protocol, schemes = _protocol()
    with st.container(horizontal=True):
        if st.button(
            "Measure speed",
            key="compare.speed.run",
            icon=":material/speed:",
            disabled=busy,
            help="The models take turns in one process. Other load on the machine increases the spread.",
        ):
            state.start_task("speed", **protocol, schemes=list(schemes))
        if st.button(
            "Measure quality against bytes",
            key="compare.sizes.run",
            icon=":material/scatter_plot:",
            disabled=busy or not schemes or not now.run.recipe.evaluation.corpora,
            help="Perplexity on this run's first text of each model and its quantised copies.",
        ):
            state.start_task("sizes", schemes=list(schemes))
    _speed_result(now)
    _sizes_result(now)
    with st.expander("Show as code", icon=":material/code:", key="compare.speed.code"):
        python, line = st.tabs(["Python", "Command line"], key="compare.speed.code.tabs")
        python.code(code.speed_code(now.recipe, protocol, schemes), language="python", wrap_lines=True)
        line.code(code.speed_command(now.run.id, protocol, schemes), language="bash", wrap_lines=True)


def _protocol() -> tuple[dict[str, int], Sequence[str]]:
    """Controls of batch, lengths, turns and quantised copies."""
    chosen = {}
    with st.grid(4, min_column_width=130):
        for name, (label, step) in LABELS.items():
            key = f"compare.speed.{name}"
            st.session_state.setdefault(key, getattr(SPEED, name))
            chosen[name] = int(st.number_input(label, step=step, key=key, **limits(SpeedRequest, name)))
    st.session_state.setdefault(QUANTISED, list(SCHEMES))
    schemes = st.multiselect(
        "Quantised copies as baselines",
        list(SCHEMES),
        key=QUANTISED,
        format_func=lambda scheme: f"{scheme}: {SCHEMES[scheme]}",
        placeholder="None",
        help=(
            "A quantised dense model is a baseline for a pruned one, and both methods can be combined. The linear "
            "layers of the blocks are quantised with bitsandbytes; on a CPU that saves memory but is usually "
            "slower."
        ),
    )
    return chosen, schemes


def _speed_result(now: state.Context) -> None:
    found = now.run.speed()
    if found is None:
        st.caption("Speed was not measured for this pruned model yet.")
        return
    predicted = figures.predictions(found, now.run.plan(), now.run.costs())
    show_chart("compare.speed.chart", figures.speeds(found, predicted))
    _offer_prediction(now, found, predicted)
    memory = "the peak on the device" if next(iter(found.models.values())).memory_measured else "weights and KV cache"
    words = [
        f"{name}: first token after {item.first_token.median:.3g} s, file {megabytes(item.file_bytes)}, memory "
        f"{megabytes(item.memory_bytes)}"
        for name, item in found.models.items()
    ]
    estimate = "" if memory.startswith("the peak") else ", an estimate: a process's memory cannot be split by model"
    st.caption(plain(f"{'; '.join(words)}. Memory is {memory}{estimate}."))


def _offer_prediction(now: state.Context, found: SpeedReport, predicted: Mapping[str, float]) -> None:
    """A button that measures the costs which predict the speed-up, where the run has none for this protocol."""
    if len(predicted) == len(PHASES):
        return
    if st.button(
        "Predict the speed-up",
        key="compare.costs.run",
        icon=":material/timer:",
        disabled=now.job is not None,
        help=(
            "Times attention and MLP by their size, once for this shape of model on this device, and adds up those of "
            "the plan. A budget in time on the Allocation page uses the same costs."
        ),
    ):
        state.start_task("costs", batch=found.batch, length=found.prompt)


def _sizes_result(now: state.Context) -> None:
    found = now.run.sizes()
    chart = figures.quality_against_bytes(found) if found else None
    if chart is None:
        st.caption("Quality against bytes was not measured for this pruned model yet.")
        return
    row = chart.table.iloc[0]
    where = f"{count(row['tokens'], 'token')} in windows of {row['window']:,}, {row['device']}."
    show_chart("compare.sizes.chart", chart, plain(where))
