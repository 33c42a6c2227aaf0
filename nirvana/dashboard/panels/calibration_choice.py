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
from nirvana.dashboard.panels.cost import expected, warn, words
from nirvana.dashboard.panels.criteria import criterion_title
from nirvana.dashboard.panels.fields import whole_number
from nirvana.dashboard.panels.model import inspected, loaded_card
from nirvana.reporting.estimates import expected_seconds
from nirvana.reporting.figures.allocation import gamma_label
from nirvana.reporting.figures.chart import count
from nirvana.runs.pace import read_pace
from nirvana.runs.recipe import CalibrationChoice
from nirvana.saliency.criteria import available
from nirvana.schema import limits

TASK = "calibration.task"
TASKS = {
    SPANS: "Span corruption: fill in missing spans",
    CONTINUATION: "Continuation: continue the first half",
}


def calibration_controls(now: state.Context) -> CalibrationChoice:
    """Controls of text, candidates, samples and, under "Advanced", the trial prunings; returns their values."""
    choice = now.recipe.calibration
    (corpus, *alternatives), mixtures = choose_texts(choice.texts, choice.mixtures)
    task = _choose_task(now)
    candidates = whole_number(
        "Sets of each text" if alternatives else "Candidate sets",
        choice,
        "candidates",
        "Each is drawn with its own seed and tried. With 1 set of one text there are no trials.",
    )
    with st.expander("Advanced", key="calibration.advanced"):
        with st.grid(3, min_column_width=200):
            samples = whole_number("Samples in a set", choice, "samples", "The paper uses 32.")
            length = whole_number("Tokens in a sample", choice, "length", "The paper uses 128.")
            seed = whole_number("Seed", choice, "seed", "Seed of the first set; the others have the next seeds.")
        trial = _trial_controls(now)
        with st.grid(3, min_column_width=200):
            probe_samples = whole_number(
                "Probe samples", choice, "probe_samples", "More probes distinguish closer sets."
            )
            probe_length = whole_number(
                "Tokens in a probe",
                choice,
                "probe_length",
                "The paper uses 64. On 512, KL orders models as perplexity does.",
            )
            probe_seed = whole_number("Probe seed", choice, "probe_seed", "Seed of the probe samples.")
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
    """Controls of criterion and allocation of the trial prunings; values by recipe field."""
    choice = now.recipe.calibration
    st.markdown("**Trial prunings and probe**")
    st.markdown(
        "The trials use these settings, independent of the Allocation page, so its sliders do not make the "
        "choice stale."
    )
    st.button(
        "Use this run's criterion and allocation",
        key="calibration.trial_own",
        icon=":material/sync:",
        on_click=_take_own,
        help="Copies the settings of the Saliency and Allocation pages.",
    )
    for name, value in _as_controls(choice, now).items():
        st.session_state.setdefault(f"calibration.{name}", value)
    with st.grid(3, min_column_width=200):
        criterion = st.selectbox(
            "Criterion",
            available(),
            key="calibration.trial_criterion",
            format_func=criterion_title,
            help="A criterion that reads no text gives the same model with every set.",
        )
        words = "Share of the attention and MLP weights that each trial removes."
        sparsity = trial_sparsity("calibration.trial_sparsity", words)
        gamma = st.select_slider(
            "gamma",
            sorted({*GAMMAS, st.session_state["calibration.trial_gamma"]}),
            format_func=gamma_label,
            key="calibration.trial_gamma",
            help="Ratio of the MLP's pruning rate to attention's, where the allocation uses it.",
        )
        method = st.selectbox(
            "Allocation",
            list(FROM_SCORES),
            key="calibration.trial_method",
            format_func=METHOD_NAMES.__getitem__,
            help="Shared by all criteria, or as published by the criterion's authors.",
        )
        protected = st.multiselect(
            "Protected layers",
            _layers(now),
            key="calibration.trial_protected",
            placeholder="None",
            help="These layers keep every unit in the trials.",
        )
        normalisation = st.slider(
            "Normalisation",
            **limits(CalibrationChoice, "trial_normalisation"),
            step=0.05,
            key="calibration.trial_normalisation",
            help="Score normalisation exponent (0 = off).",
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
    """Layers of the model if known, else those named by the recipe."""
    card = loaded_card(now.recipe.model.name, now) or inspected(now.recipe.model.name)[0]
    return sorted({site.layer for site in card.layout} if card else now.recipe.calibration.trial_protected)


def show_cost(now: state.Context) -> None:
    """Number of tokens to read, expected duration and memory, with a warning where that does not suffice."""
    recipe, choice = now.recipe, now.recipe.calibration
    memory = expected(now, ["calibration"])
    if choice.trials == 1:
        text = f"Draws {count(choice.samples, 'sample')} of {choice.length:,} tokens; nothing is computed"
    else:
        text = (
            f"Scores {choice.trials} sets of {choice.samples:,} x {choice.length:,} tokens, prunes with each, and "
            f"runs each pruned model over {choice.probe_samples:,} x {choice.probe_length:,} probe tokens"
        )
        text += f": {words(expected_seconds('calibration', recipe, read_pace(recipe.model)), memory)}"
    if any(SELF_GENERATED.name in part_names(name) for name in choice.texts):
        text += ". The model generates the text first, once"
    st.caption(f"{text}.")
    warn(memory)


def _choose_task(now: state.Context) -> str:
    """Control of the task of an encoder-decoder."""
    task, model = now.recipe.calibration.task, now.recipe.model.name
    card = loaded_card(model, now)
    found = card or inspected(model)[0]
    if found is None:
        return task
    if len(found.layout.stacks) == 1:
        return "auto"
    st.session_state.setdefault(TASK, task)
    meant = card.task if card else "the model's training task"
    return st.selectbox(
        "Task",
        ["auto", *TASKS],
        key=TASK,
        format_func=lambda name: f"Automatic: {meant}" if name == "auto" else TASKS[name],
        help="The encoder reads one part of each sample and the decoder predicts the other, here and in the "
        "comparison. Span corruption is what T5, mT5 and ByT5 were trained on: 15 % of the tokens are masked, "
        "in spans, and the decoder predicts them. Continuation suits instruction-tuned models, such as Flan-T5.",
    )
