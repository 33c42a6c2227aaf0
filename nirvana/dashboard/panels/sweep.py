"""Panels of the Sweep page: controls, cost and progress of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from nirvana.allocation.rules import METHODS
from nirvana.dashboard import state
from nirvana.dashboard.panels.allocation import GAMMAS
from nirvana.dashboard.panels.corpora import corpus_label
from nirvana.dashboard.panels.criteria import criterion_title
from nirvana.dashboard.panels.messages import page_link, show_error
from nirvana.dashboard.study_panel import StudyPanel
from nirvana.errors import NirvanaError
from nirvana.reporting.estimates import in_words, sweep_seconds
from nirvana.reporting.figures.allocation import gamma_label
from nirvana.reporting.figures.chart import count
from nirvana.reporting.text import plain
from nirvana.runs.describe import ALLOCATIONS, COMPENSATIONS, RECOVERIES, budget, model_name
from nirvana.runs.pace import read_pace
from nirvana.runs.recipe import Recipe
from nirvana.saliency.criteria import available
from nirvana.studies.sweep import Sweep
from nirvana.studies.sweep_grid import WIDTHS, Grid, Point
from nirvana.studies.sweep_rows import Row, read_grid, read_rows

RUN = "nirvana.swept"  # the run whose grid the controls show
CRITERIA, SPARSITIES, SEEDS, SEEN = "sweep.criteria", "sweep.sparsities", "sweep.seeds", "nirvana.sweep_seeds"
LISTS = {
    "methods": "sweep.methods",
    "compensations": "sweep.compensations",
    "gammas": "sweep.gammas",
    "normalisations": "sweep.normalisations",
    "widths": "sweep.widths",
    "recoveries": "sweep.recoveries",
}
SPEED = "sweep.speed"
MOST_SEEDS = 20
SHARES = tuple(round(0.05 * step, 2) for step in range(1, 19))
NORMALISATIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
PANEL = StudyPanel(Sweep(), "sweep", "point", lambda run: [row.seconds for row in read_rows(run)])


def base_recipe(now: state.Context, grid: Grid) -> Recipe:
    """The recipe of the sweep: the draft, or the run's own recipe if both give the same rows."""
    return now.run.recipe if grid.same_rows(now.recipe, now.run.recipe) else now.recipe


def grid_controls(now: state.Context) -> Grid:
    """Controls of the grid, starting from the run's last grid."""
    _adopt(now)
    criteria = st.multiselect(
        "Criteria",
        available(),
        key=CRITERIA,
        format_func=criterion_title,
        placeholder="Choose",
        help="How units are scored. Random is the baseline.",
    )
    sparsities = st.multiselect(
        "Sparsities",
        sorted({*SHARES, *st.session_state[SPARSITIES]}),
        key=SPARSITIES,
        format_func=lambda share: f"{100 * share:.3g} %",
        placeholder="Choose",
        help="Shares of the attention and MLP weights to remove.",
    )
    methods = st.multiselect(
        "Allocations",
        list(METHODS),
        key=LISTS["methods"],
        format_func=lambda name: ALLOCATIONS[name].capitalize(),
        placeholder="Choose",
        help=(
            "Same allocation: global rankings, balanced by gamma. As published: the allocation and "
            "compensation of each criterion's authors."
        ),
    )
    seeds = st.number_input(
        "Seeds",
        min_value=1,
        max_value=MOST_SEEDS,
        step=1,
        key=SEEDS,
        help="Each draws its own calibration set. One seed gives no estimate of the variance; use three or more.",
    )
    with st.expander("More", icon=":material/tune:", key="sweep.more"):
        st.caption(
            "Compensation, gamma and normalisation apply to the same allocation; as published, each criterion has its "
            "own."
        )
        compensations = st.multiselect(
            "Compensations",
            list(COMPENSATIONS),
            key=LISTS["compensations"],
            format_func=lambda name: COMPENSATIONS[name].capitalize(),
            placeholder="Choose",
            help="Compensation of the output projections for the removed units.",
        )
        gammas = st.multiselect(
            "gamma",
            sorted({*GAMMAS, *st.session_state[LISTS["gammas"]]}),
            key=LISTS["gammas"],
            format_func=gamma_label,
            placeholder="Choose",
            help="Ratio of the MLP's pruning rate to attention's.",
        )
        normalisations = st.multiselect(
            "Normalisation",
            sorted({*NORMALISATIONS, *st.session_state[LISTS["normalisations"]]}),
            key=LISTS["normalisations"],
            placeholder="Choose",
            help="Score normalisation exponent (0 = off).",
        )
        widths = st.multiselect(
            "Widths",
            list(WIDTHS),
            key=LISTS["widths"],
            format_func={"own": "As in the recipe", "equal": "Equal"}.__getitem__,
            placeholder="Choose",
            help="Equal widths in all layers give a plain checkpoint, which every engine reads; published "
            "allocations have their own.",
        )
        recoveries = st.multiselect(
            "Recovery",
            ["none", *RECOVERIES],
            key=LISTS["recoveries"],
            format_func=lambda name: RECOVERIES.get(name, "none").capitalize(),
            placeholder="Choose",
            help="Training of each pruned model, with the budget and options of the Recover page. Such a point "
            "also gives the numbers before it.",
        )
        speed = st.toggle(
            "Measure the speed of every point",
            key=SPEED,
            help="Each pruned model takes turns with the dense one in one process. Avoid other load on the machine.",
        )
    return Grid(
        criteria=tuple(criteria),
        methods=tuple(methods),
        sparsities=tuple(sorted(sparsities)),
        seeds=_seeds(int(seeds)),
        compensations=tuple(compensations),
        gammas=tuple(gammas),
        normalisations=tuple(normalisations),
        widths=tuple(widths),
        recoveries=tuple(recoveries),
        speed=speed,
    )


def _adopt(now: state.Context) -> None:
    """Set the controls to the open run's grid, once after it was opened."""
    known = read_grid(now.run) or Grid(seeds=tuple(range(3)))
    if st.session_state.get(RUN) != now.run.id and (read_grid(now.run) is not None or RUN not in st.session_state):
        for key in [str(key) for key in st.session_state if str(key).startswith("sweep.")]:
            del st.session_state[key]
    st.session_state[RUN] = now.run.id
    st.session_state.setdefault(CRITERIA, list(known.criteria))
    st.session_state.setdefault(SPARSITIES, list(known.sparsities))
    st.session_state.setdefault(SEEDS, min(len(known.seeds), MOST_SEEDS))
    st.session_state.setdefault(SPEED, known.speed)
    for name, key in LISTS.items():
        st.session_state.setdefault(key, list(getattr(known, name)))
    st.session_state[SEEN] = known.seeds


def _seeds(wanted: int) -> tuple[int, ...]:
    """`number` seeds: those of the last grid first, then the smallest others."""
    known = list(st.session_state[SEEN])
    others = (seed for seed in range(wanted + len(known)) if seed not in known)
    while len(known) < wanted:
        known.append(next(others))
    return tuple(known[:wanted])


def describe_base(recipe: Recipe) -> str:
    """Settings that all points share, in a sentence."""
    calibration, evaluation = recipe.calibration, recipe.evaluation
    texts = ", ".join(plain(corpus_label(name)) for name in evaluation.corpora) or "no text"
    tasks = f", {count(len(evaluation.zero_shot), 'zero-shot task')}" if evaluation.zero_shot else ""
    timed = "".join(f"; sparsities are shares {plain(words)}" for words in budget(recipe.allocation))
    return (
        f"Around the open run: **{plain(model_name(recipe))}**, calibrated on "
        f"{calibration.samples:,} x {calibration.length:,} tokens of {plain(corpus_label(calibration.corpus))}; "
        f"perplexity on {texts}{tasks}, KL on {calibration.probe_samples:,} probes{timed}. Change these on their pages."
    )


def start(now: state.Context, grid: Grid, rows: Sequence[Row]) -> None:
    """Number of points, expected duration, and the button."""
    recipe = base_recipe(now, grid)
    if not PANEL.is_valid(now, grid, recipe, "Start the sweep"):
        return
    points = grid.points()
    done = {row.point for row in rows if not row.failure and (row.speed or not grid.speed)}
    around = rows if recipe == now.run.recipe else []
    todo = [point for point in points if point not in done or not around]
    new = set(todo) - {row.point for row in around if row.failure}
    label = "Start the sweep" if len(todo) == len(points) else f"Continue: {count(len(todo), 'point')} to go"
    if not new:
        label = f"Try {count(len(todo), 'failed point')} again" if todo else "The sweep is complete"
    PANEL.start(
        now,
        grid,
        recipe,
        label=label,
        caption=_cost(recipe, grid, points, todo, around),
        help="Finished points are kept if you stop; continue or extend the grid later.",
        complete=not todo,
        kind="primary" if new else "secondary",
    )


def _cost(recipe: Recipe, grid: Grid, points: Sequence[Point], todo: Sequence[Point], rows: Sequence[Row]) -> str:
    text = count(len(points), "point")
    if len(todo) < len(points):
        text += f", {len(points) - len(todo)} of them done"
    failed = {row.point for row in rows if row.failure}  # they mostly fail again, at once
    left = [point for point in todo if point not in failed]
    if left:
        seconds = sweep_seconds(left, rows, recipe, read_pace(recipe.model))
        text += f"; {in_words(seconds)}" + (" for the rest" if len(todo) < len(points) else "")
        text += ", without the measurement of speed" if grid.speed and not rows and seconds is not None else ""
    return f"{text}."


def belongs_elsewhere(now: state.Context) -> bool:
    """On a point's run: a link to the sweep's run. True for a point."""
    if not now.run.study:
        return False
    try:
        base = now.store.open(now.run.study)
    except NirvanaError as error:
        show_error(error)
        return True
    with st.container(border=True):
        st.markdown(f"#### This run is one point of a sweep\nThe sweep belongs to **{plain(base.name)}**.")
        st.button(
            "Open the sweep",
            key="sweep.back",
            type="primary",
            icon=":material/ssid_chart:",
            on_click=state.open_run,
            args=(base.id,),
        )
    return True


def nothing_yet(now: state.Context) -> None:
    """Placeholder of the results."""
    with st.container(border=True):
        st.markdown(
            "#### Nothing to show yet\nThis page will show perplexity, KL and accuracy over the achieved "
            "sparsity, with a line for each criterion; quality against size and speed; and a table of "
            "published against same allocation."
        )
        if now.job is not None:
            st.markdown("The running job fills this page point by point.")
        else:
            st.markdown("Choose the grid, and start the sweep. All other settings are the open run's.")
            page_link("calibration", "Choose the calibration text")


def explain() -> None:
    """Explanation of the comparisons of a sweep."""
    st.markdown(
        "A criterion ranks the units; an **allocation** determines the number to remove in each layer. Authors "
        "publish both together, so a comparison has two columns. **As published** is each method with its "
        "authors' allocation and compensation, and gamma 3.36 if it has one. **Same allocation** uses "
        "NIRVANA's for every criterion: global rankings of KV groups and of neurons, tied by gamma. Both meet "
        "the target sparsity to within one block, except for whole layers; points more than 1 pp off target "
        "are flagged and excluded."
    )
    st.markdown(
        "A **recovered** point is trained after pruning, and its numbers are those of the recovered model; the figure "
        "of recovery shows both. Recovered points compete only with points of the same recovery. Their weights are "
        "deleted once they are measured."
    )
    st.markdown(
        "Each **seed** draws one calibration set, without a choice by KL, so seeds are independent. Two criteria "
        "are compared seed by seed: with $d_s$ the difference of their log perplexities (or KL) at seed $s$, of $n$,"
    )
    st.latex(r"\bar d \pm t_{n-1}\, \frac{\mathrm{sd}(d)}{\sqrt n}")
    st.markdown(
        "is the 95 % interval of their ratio, by Student's $t$. It is for other calibration sets of the same "
        "text, not for other texts. With three seeds only large differences are significant."
    )
