"""Panels of the Tune page: controls, progress and results of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.allocation import METHOD_NAMES, trial_sparsity
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.corpora import corpus_label, corpus_options
from nirvana.dashboard.panels.criteria import criterion_title
from nirvana.dashboard.panels.fields import whole_number
from nirvana.dashboard.panels.metrics import metric
from nirvana.dashboard.study_panel import StudyPanel
from nirvana.reporting.figures import search as figures
from nirvana.reporting.figures.chart import Chart, count, plus_minus
from nirvana.reporting.search import (
    CHOICES,
    describe,
    protocol_words,
    trials_table,
)
from nirvana.reporting.text import duration, plain
from nirvana.runs.describe import model_name, short_text
from nirvana.saliency.criteria import available
from nirvana.studies.search import Search, SearchRequest
from nirvana.studies.search_space import CRITERIA, METHODS
from nirvana.studies.search_trials import Trial, ranked, read_trials, recipe_of

TEXTS, SCORED_BY, ALLOCATED_BY = "tune.corpora", "tune.criteria", "tune.methods"
SPARSITY, MINUTES, SEED = "tune.sparsity", "tune.minutes", "tune.seed"
CHOICE, TRIAL = "tune.choice", "tune.trial"
RUN = "nirvana.tuned"  # the run whose search the controls show
LATER = "Appears with the first finished trial."
PANEL = StudyPanel(Search(), "tune", "trial", lambda run: [trial.seconds for trial in read_trials(run.folder)[1]])


def controls(now: state.Context, settings: dict[str, Any] | None) -> SearchRequest:
    """Controls of the search space, starting from the run's last search."""
    _adopt(now, settings)
    chosen = st.session_state[TEXTS]
    corpora = st.multiselect(
        "Texts",
        corpus_options(*chosen),
        key=TEXTS,
        format_func=corpus_label,
        placeholder="Choose",
        help=(
            "Calibration texts: each alone, and a uniform mixture of all. KL is measured on separate parts of "
            "all texts. Add your own texts on the Calibration page."
        ),
    )
    criteria = st.multiselect(
        "Criteria",
        available(),
        key=SCORED_BY,
        format_func=criterion_title,
        placeholder="Choose",
        help="How units are scored. Scoring takes longest, so fewer criteria leave time for more trials.",
    )
    methods = st.multiselect(
        "Allocations",
        list(METHODS),
        key=ALLOCATED_BY,
        format_func=METHOD_NAMES.__getitem__,
        placeholder="Choose",
        help=(
            "Shared: global rankings, balanced by gamma. Measured: by loss curves, which take minutes with "
            "SmolLM2-135M for each calibration set and criterion, so that at most one of four trials measures "
            "new ones."
        ),
    )
    sparsity = trial_sparsity(SPARSITY, "Share of the attention and MLP weights that every trial removes.")
    minutes = PANEL.minutes(MINUTES)
    seed = whole_number("Seed", SearchRequest(), "seed", key=SEED)
    return SearchRequest(
        corpora=tuple(corpora),
        criteria=tuple(criteria),
        methods=tuple(methods),
        sparsity=float(sparsity),
        seed=seed,
        minutes=minutes,
    )


def _adopt(now: state.Context, settings: dict[str, Any] | None) -> None:
    """Set the controls to the open run's search, once after it was opened."""
    if st.session_state.get(RUN) not in (None, now.run.id) and settings is not None:
        for key in (TEXTS, SPARSITY, SCORED_BY, ALLOCATED_BY, SEED):
            st.session_state.pop(key, None)
    st.session_state[RUN] = now.run.id
    known = settings or {}
    st.session_state.setdefault(TEXTS, list(known.get("corpora") or now.recipe.calibration.texts))
    st.session_state.setdefault(SCORED_BY, list(known.get("criteria") or CRITERIA))
    st.session_state.setdefault(ALLOCATED_BY, list(known.get("methods") or SearchRequest().methods))
    sparsity = float(known.get("sparsity") or now.recipe.allocation.sparsity)
    st.session_state.setdefault(SPARSITY, min(max(sparsity, 0.01), 0.99))
    st.session_state.setdefault(SEED, int(known.get("seed") or 0))
    st.session_state.setdefault(MINUTES, int(SearchRequest().minutes))


def start(now: state.Context, request: SearchRequest, settings: dict[str, Any] | None, trials: Sequence[Trial]) -> None:
    """Estimated cost, and the button."""
    if not PANEL.is_valid(now, request, now.recipe, "Search"):
        return
    continues = settings is not None and _same(request, settings) and now.recipe == now.run.recipe and bool(trials)
    texts = count(len(request.corpora), "text")
    caption = f"Searches for {count(int(request.minutes), 'minute')} on {texts} with {plain(model_name(now.recipe))}"
    spent = [trial.seconds for trial in trials if not trial.failure]
    if spent and continues:
        caption += f"; a trial took {duration(sum(spent) / len(spent))} on average"
    PANEL.start(
        now,
        request,
        now.recipe,
        label=f"Continue with trial {len(trials) + 1}" if continues else "Search",
        caption=f"{caption}. Samples and lengths are those of the Calibration and Prune pages.",
        help="Finished trials are kept if you stop. A search with other settings has separate trials.",
    )


def _same(request: SearchRequest, settings: dict[str, Any]) -> bool:
    known = {name: settings.get(name) for name in ("criteria", "sparsity", "seed")}
    asked = {"criteria": list(request.criteria), "sparsity": request.sparsity, "seed": request.seed}
    methods = set(settings.get("methods") or SearchRequest().methods)
    return (
        list(settings.get("corpora", {})) == list(request.corpora) and known == asked and methods == {*request.methods}
    )


def over_time(settings: dict[str, Any], trials: Sequence[Trial]) -> None:
    """KL of the trials in order: the picture of the page."""
    _show("tune.over_time", figures.over_time(trials), settings)


def best(now: state.Context, settings: dict[str, Any], trials: Sequence[Trial]) -> None:
    """The best trial beside the first one, the button that runs its recipe, and the failed trials."""
    good = ranked(trials)
    if good:
        _headline(good, trials)
        _make_run(now, settings, good)
    failed = [trial for trial in trials if trial.failure]
    PANEL.failures([(f"Trial {trial.number + 1}, {describe(trial.choices)}", trial.failure) for trial in failed])


def by_choice(settings: dict[str, Any] | None, trials: Sequence[Trial]) -> None:
    """KL of the trials against one of their choices."""
    if settings is None or not ranked(trials):
        st.caption(LATER)
        return
    choice = st.segmented_control(
        "KL against", list(CHOICES), key=CHOICE, format_func=CHOICES.__getitem__, default="criterion", required=True
    )
    chart = figures.by_choice(trials, str(choice))
    if chart is None:
        st.caption(f"All trials so far have the measured allocation, which has no {choice}.")
    _show("tune.by_choice", chart, settings)


def correlation(settings: dict[str, Any] | None, trials: Sequence[Trial]) -> None:
    """KL against perplexity: the premise of a choice by KL."""
    chart = figures.kl_against_perplexity(trials) if ranked(trials) else None
    if settings is None or chart is None:
        st.caption("Appears with the second finished trial.")
        return
    _show("tune.kl_perplexity", chart, settings)


def all_trials(settings: dict[str, Any] | None, trials: Sequence[Trial]) -> None:
    """Table of the trials, the lowest KL first."""
    good = ranked(trials)
    if settings is None or not good:
        st.caption(LATER)
        return
    st.dataframe(trials_table(good), hide_index=True, key="tune.trials", height="auto" if len(good) < 9 else 360)
    st.caption(f"The lowest KL first. {_protocol(settings)}")


def _show(key: str, chart: Chart | None, settings: dict[str, Any]) -> None:
    if chart is not None:
        show_chart(key, chart, _protocol(settings))


def _protocol(settings: dict[str, Any]) -> str:
    return protocol_words(settings, lambda name: plain(corpus_label(name)))


def _headline(good: Sequence[Trial], trials: Sequence[Trial]) -> None:
    best = good[0]
    first = next((trial for trial in trials if trial.number == 0 and not trial.failure), None)
    with st.grid(4, min_column_width=165):
        metric("Best KL", f"{best.kl:.3g} nats", f"± {best.kl_error:.2g}", "KL to the dense model on probe text.")
        if first is not None and first is not best:
            started = f"{describe(first.choices)}: the start of the search."
            metric("KL of the first trial", f"{first.kl:.3g} nats", f"± {first.kl_error:.2g}", started)
        for name, (value, error) in best.perplexity.items():
            metric(
                f"Perplexity, {plain(short_text(name))}",
                f"{value:,.4g}",
                f"± {error:.2g}",
                f"Of the best trial, on probe text of {plain(corpus_label(name))}.",
            )
    st.markdown(f"**The best so far**: {plain(describe(best.choices))}.")
    if first is not None and first is not best:
        low, high = _ratio(best, first)
        where = f"{low:.0%} to {high:.0%}" if round(low, 2) != round(high, 2) else f"{low:.0%}"
        st.markdown(
            f"The first trial, {plain(describe(first.choices))}, is at {plus_minus(first.kl, first.kl_error)} nats; "
            f"its perplexity is {where} of the best's."
        )


def _ratio(best: Trial, first: Trial) -> tuple[float, float]:
    shares = [first.perplexity[name][0] / value for name, (value, _) in best.perplexity.items()]
    return min(shares), max(shares)


def _make_run(now: state.Context, settings: dict[str, Any], good: Sequence[Trial]) -> None:
    """A button that starts a run with the recipe of the best or another trial."""
    by_number = {trial.number: trial for trial in good}
    if st.session_state.get(TRIAL) not in by_number:
        st.session_state.pop(TRIAL, None)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        number = st.selectbox(
            "Trial",
            list(by_number),
            key=TRIAL,
            format_func=lambda key: f"{key + 1}: {describe(by_number[key].choices)}",
            help="The best first.",
        )
        if st.button(
            "Run this recipe",
            key="tune.make",
            type="primary",
            icon=":material/content_cut:",
            disabled=now.job is not None,
            help=(
                "Computes every step with this recipe in a new run, with the recovery of the Recover page if it is on, "
                "measured on the evaluation splits, which the search does not read."
            ),
        ):
            chosen = by_number[number]
            recipe = (
                recipe_of(settings, chosen.choices)
                .change("model", **vars(now.run.recipe.model))
                .with_values(evaluation=now.recipe.evaluation, recovery=now.recipe.recovery)
            )
            state.start(recipe, name=f"Tuned: {describe(chosen.choices)}"[:120], page="pages/prune.py")


def nothing_yet(now: state.Context) -> None:
    """Placeholder of the results."""
    with st.container(border=True):
        st.markdown(
            "#### Nothing to show yet\nEvery finished trial appears here: its KL against each of its choices, "
            "and the correlation of KL and perplexity. The first trials are the paper's recipe and each other "
            "criterion with the benchmarks' best choices; later trials follow earlier results."
        )
        if now.job is not None and now.job.task == "tune":
            st.markdown("The running job fills this page trial by trial.")
        else:
            st.markdown(
                "A trial takes a second or two with a tiny built-in model. With SmolLM2-135M on a CPU it takes "
                "one to three minutes with new scores, and well under one without. Loss curves of the measured "
                "allocation take further minutes."
            )


def explain() -> None:
    """Explanation of the search space and the texts."""
    st.markdown(
        "Each trial prunes the model once and is measured by **KL(dense || pruned)**, the mean divergence of "
        "its predictions over probe tokens. The search chooses criterion, allocation, gamma, score normalisation, "
        "calibration text and seed, compensation, and the number of protected layers at either end. A "
        "tree-structured Parzen estimator (optuna) suggests the next trial. Scores, loss curves and statistics are "
        "reused, and three of four trials need no new ones. The measured allocation has neither gamma nor "
        "normalisation. Trials are not trained: a recovery follows in the run of a "
        "recipe."
    )
    st.markdown(
        "Calibration text, probes and evaluation text are disjoint. The search's own measurements are biased "
        "by the choice, so a run with a trial's recipe is measured on the **evaluation** splits, which no "
        "trial reads."
    )
