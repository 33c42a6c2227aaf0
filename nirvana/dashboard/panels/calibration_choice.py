"""Controls of the Calibration page, and the cost of the choice."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nirvana.allocation.rules import FROM_SCORES
from nirvana.calibration.corpora.mixture import part_names
from nirvana.calibration.corpora.registry import SELF_GENERATED
from nirvana.calibration.tasks import CONTINUATION, SPANS
from nirvana.dashboard import state
from nirvana.dashboard.panels.allocation import GAMMAS, LEAST, METHOD_NAMES, MOST, trial_sparsity
from nirvana.dashboard.panels.corpora import choose_texts
from nirvana.dashboard.panels.criteria import criterion_title
from nirvana.dashboard.panels.fields import whole_number
from nirvana.dashboard.panels.model import inspected, loaded_card
from nirvana.reporting.estimates import expected_seconds, in_words
from nirvana.reporting.figures.allocation import gamma_label
from nirvana.reporting.figures.chart import count
from nirvana.runs.pace import read_pace
from nirvana.runs.recipe import CalibrationChoice, Recipe
from nirvana.saliency.criteria import available
from nirvana.schema import limits

TASK = "calibration.task"
TASKS = {
    SPANS: "Span corruption: fill in missing spans",
    CONTINUATION: "Continuation: continue the first half",
}


def calibration_controls(now: state.Context) -> CalibrationChoice:
    """Text, candidates, samples, and behind "Advanced" the trial prunings; the result is what they say now."""
    choice = now.recipe.calibration
    (corpus, *alternatives), mixtures = choose_texts(choice.texts, choice.mixtures)
    task = _choose_task(now)
    with st.grid(4, min_column_width=150):
        candidates = whole_number(
            "Sets of each text" if alternatives else "Candidate sets",
            choice,
            "candidates",
            "Each is drawn with its own seed and tried. 1 set of one text tries nothing.",
        )
        samples = whole_number("Samples in a set", choice, "samples", "The paper uses 32.")
        length = whole_number("Tokens in a sample", choice, "length", "The paper uses 128.")
        seed = whole_number("Seed", choice, "seed", "Of the first set; the others count on from it.")
    with st.expander("Advanced: trial prunings and probe", icon=":material/tune:", key="calibration.advanced"):
        trial = _trial_controls(now)
        with st.grid(3, min_column_width=200):
            probe_samples = whole_number(
                "Probe samples", choice, "probe_samples", "More of them tell closer sets apart."
            )
            probe_length = whole_number("Tokens in a probe", choice, "probe_length", "The paper uses 64.")
            probe_seed = whole_number("Probe seed", choice, "probe_seed", "Draws the probe samples.")
    return choice.with_values(
        corpus=corpus,
        alternatives=tuple(alternatives),
        mixtures=mixtures,
        candidates=candidates,
        samples=samples,
        length=length,
        seed=seed,
        probe_samples=probe_samples,
        probe_length=probe_length,
        probe_seed=probe_seed,
        task=task,
        **trial,
    )


def _trial_controls(now: state.Context) -> dict[str, Any]:
    """Criterion and allocation of the trial prunings, by their names in the recipe."""
    choice = now.recipe.calibration
    st.markdown(
        "The sets are tried with these settings, whatever you choose later, so that moving the Allocation sliders "
        "does not ask for a new choice."
    )
    st.button(
        "Try with this run's criterion and allocation",
        key="calibration.trial_own",
        icon=":material/sync:",
        on_click=_take_own,
        help="Takes over what the Saliency and Allocation pages say now.",
    )
    for name, value in _as_controls(choice, now).items():
        st.session_state.setdefault(f"calibration.{name}", value)
    with st.grid(3, min_column_width=200):
        criterion = st.selectbox(
            "Criterion",
            available(),
            key="calibration.trial_criterion",
            format_func=criterion_title,
            help="A criterion that reads no text prunes alike with every set.",
        )
        words = "Share of the attention and MLP weights that each trial removes."
        sparsity = trial_sparsity("calibration.trial_sparsity", words)
        gamma = st.select_slider(
            "gamma",
            sorted({*GAMMAS, st.session_state["calibration.trial_gamma"]}),
            format_func=gamma_label,
            key="calibration.trial_gamma",
            help="How much faster the MLP is pruned than attention, where the allocation makes use of it.",
        )
        method = st.selectbox(
            "Allocation",
            list(FROM_SCORES),
            key="calibration.trial_method",
            format_func=METHOD_NAMES.__getitem__,
            help="Shared by all criteria, or what the authors of the criterion do.",
        )
        protected = st.multiselect(
            "Protected layers",
            _layers(now),
            key="calibration.trial_protected",
            placeholder="None",
            help="These keep every unit in the trials.",
        )
        normalisation = st.slider(
            "Normalisation",
            **limits(CalibrationChoice, "trial_normalisation"),
            step=0.05,
            key="calibration.trial_normalisation",
            help="How far layers' scores are brought to the same mean before they are ranked.",
        )
    return {
        "trial_criterion": criterion,
        "trial_sparsity": sparsity,
        "trial_gamma": float(gamma),
        "trial_method": method,
        "trial_protected": tuple(sorted(protected)),
        "trial_normalisation": normalisation,
    }


def _as_controls(choice: CalibrationChoice, now: state.Context) -> dict[str, Any]:
    """Widget values of a choice, for the controls of the trial prunings."""
    layers = _layers(now)
    return {
        "trial_criterion": choice.trial_criterion,
        "trial_sparsity": min(max(choice.trial_sparsity, LEAST), MOST),
        "trial_gamma": choice.trial_gamma,
        "trial_method": choice.trial_method,
        "trial_protected": [layer for layer in choice.trial_protected if layer in layers],
        "trial_normalisation": choice.trial_normalisation,
    }


def _take_own() -> None:
    now = state.context()
    allocation = now.recipe.allocation
    own = now.recipe.calibration.with_values(
        trial_criterion=now.recipe.saliency.criterion,
        trial_sparsity=allocation.sparsity,
        trial_gamma=allocation.gamma,
        trial_method=allocation.method if allocation.method in FROM_SCORES else "shared",
        trial_protected=allocation.protected,
        trial_normalisation=allocation.normalisation,
    )
    for name, value in _as_controls(own, now).items():
        st.session_state[f"calibration.{name}"] = value


def _layers(now: state.Context) -> list[int]:
    """Those of the model, where it is known; else those that the recipe names."""
    card = loaded_card(now.recipe.model.name, now) or inspected(now.recipe.model.name)[0]
    return sorted({site.layer for site in card.layout} if card else now.recipe.calibration.trial_protected)


def cost(recipe: Recipe) -> str:
    """Tokens that will be read, and the expected duration."""
    choice = recipe.calibration
    if choice.trials == 1:
        text = f"Draws {count(choice.samples, 'sample')} of {choice.length:,} tokens; nothing is computed"
    else:
        text = (
            f"Scores {choice.trials} sets of {choice.samples:,} x {choice.length:,} tokens, prunes with each, and "
            f"runs each pruned model over {choice.probe_samples:,} x {choice.probe_length:,} probe tokens"
        )
        text += f": {in_words(expected_seconds('calibration', recipe, read_pace(recipe.model)))}"
    if any(SELF_GENERATED.name in part_names(name) for name in choice.texts):
        text += ". The model writes the text first, once"
    return f"{text}."


def _choose_task(now: state.Context) -> str:
    """Task of an encoder-decoder; nothing to choose without an encoder."""
    task, model = now.recipe.calibration.task, now.recipe.model.name
    card = loaded_card(model, now)
    found = card or inspected(model)[0]
    if found is None:
        return task
    if len(found.layout.stacks) == 1:
        return "auto"
    st.session_state.setdefault(TASK, task)
    meant = card.task if card else "what the model was trained on"
    return st.selectbox(
        "Task",
        ["auto", *TASKS],
        key=TASK,
        format_func=lambda name: f"Automatic: {meant}" if name == "auto" else TASKS[name],
        help="The encoder reads one part of each sample and the decoder predicts the other, here and in the "
        "comparison. Span corruption is what T5, mT5 and ByT5 were trained on: 15 % of the tokens go missing, in "
        "spans, and the decoder predicts them. Continuation suits models tuned to answer, such as Flan-T5.",
    )
