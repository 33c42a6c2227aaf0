"""What the Calibration page lets a user choose, and what the choice costs."""

from __future__ import annotations

import streamlit as st

from nirvana.calibration.tasks import CONTINUATION, SPANS
from nirvana.runs.recipe import CalibrationChoice, Recipe
from nirvana.runs.store import EXAMPLE
from nirvana.saliency import available
from nirvana.ui import state
from nirvana.ui.estimates import expected_seconds
from nirvana.ui.figures.allocation import gamma_label
from nirvana.ui.figures.chart import count
from nirvana.ui.panels.allocation import GAMMAS
from nirvana.ui.panels.corpora import choose_corpus
from nirvana.ui.panels.criteria import criterion_title
from nirvana.ui.panels.model import inspected, loaded_card
from nirvana.ui.text import duration

LARGEST = 2**53 - 1  # whole numbers that a browser keeps exactly
TASK = "calibration.task"
TASKS = {
    SPANS: "Span corruption: fill in missing spans",
    CONTINUATION: "Continuation: go on after the first half",
}


def calibration_controls(now: state.Context) -> CalibrationChoice:
    """Text, candidates, samples, and behind "Advanced" the trial prunings; the result is what they say now."""
    choice = now.recipe.calibration
    corpus = choose_corpus(choice.corpus)
    task = _choose_task(now)
    with st.grid(4, min_column_width=150):
        candidates = _number(
            "Candidate sets", "candidates", choice, 1, 64, "Each is drawn with its own seed and tried. 1 tries nothing."
        )
        samples = _number("Samples in a set", "samples", choice, 1, 4096, "The paper uses 32.")
        length = _number("Tokens in a sample", "length", choice, 2, 32_768, "The paper uses 128.")
        seed = _number("Seed", "seed", choice, 0, LARGEST, "Of the first set; the others count on from it.")
    with st.expander("Advanced: trial prunings and probe", icon=":material/tune:", key="calibration.advanced"):
        st.markdown(
            "The sets are tried with these settings, whatever you choose later, so that moving the Allocation sliders "
            "does not ask for a new choice."
        )
        with st.grid(3, min_column_width=200):
            st.session_state.setdefault("calibration.trial_criterion", choice.trial_criterion)
            criterion = st.selectbox(
                "Criterion",
                list(dict.fromkeys([*available(), choice.trial_criterion])),
                key="calibration.trial_criterion",
                format_func=criterion_title,
                help="A criterion that reads no text prunes alike with every set.",
            )
            st.session_state.setdefault("calibration.trial_sparsity", min(max(choice.trial_sparsity, 0.01), 0.99))
            sparsity = st.slider(
                "Sparsity",
                min_value=0.01,
                max_value=0.99,
                step=0.01,
                format="percent",
                key="calibration.trial_sparsity",
                help="Share of the attention and MLP weights that each trial removes.",
            )
            st.session_state.setdefault("calibration.trial_gamma", max(choice.trial_gamma, 0.0))
            gamma = st.select_slider(
                "gamma",
                sorted({*GAMMAS, st.session_state["calibration.trial_gamma"]}),
                format_func=gamma_label,
                key="calibration.trial_gamma",
                help="How much faster the MLP is pruned than attention.",
            )
            probe_samples = _number(
                "Probe samples", "probe_samples", choice, 1, 4096, "More of them tell closer sets apart."
            )
            probe_length = _number("Tokens in a probe", "probe_length", choice, 2, 32_768, "The paper uses 64.")
            probe_seed = _number("Probe seed", "probe_seed", choice, 0, LARGEST, "Draws the probe samples.")
    return CalibrationChoice(
        corpus,
        candidates,
        samples,
        length,
        seed,
        probe_samples,
        probe_length,
        probe_seed,
        criterion,
        sparsity,
        float(gamma),
        task,
    )


def cost(recipe: Recipe, now: state.Context) -> str:
    """What will be read, and how long it may take."""
    choice = recipe.calibration
    if choice.candidates == 1:
        text = f"Draws {count(choice.samples, 'sample')} of {choice.length:,} tokens; nothing is computed"
    else:
        text = (
            f"Scores {choice.candidates} sets of {choice.samples:,} x {choice.length:,} tokens, prunes with each, and "
            f"runs each pruned model over {choice.probe_samples:,} x {choice.probe_length:,} probe tokens"
        )
        seconds = expected_seconds("calibration", recipe, now.run, [now.store.open(EXAMPLE)])
        if seconds:
            text += f": about {duration(seconds)}, by what it took before"
    if choice.corpus == "self-generated":
        text += ". The model writes the text first, once"
    return f"{text}."


def _choose_task(now: state.Context) -> str:
    """What an encoder-decoder is asked about each sample; nothing to choose without an encoder."""
    task, model = now.recipe.calibration.task, now.recipe.model.name
    card = loaded_card(model, now)
    found = card or inspected(model)[0]
    if found is None:
        return task
    if len(found.layout.stacks) == 1:
        return "auto"
    st.session_state.setdefault(TASK, task if task in TASKS else "auto")
    meant = card.task if card else "what the model was trained on"
    return st.selectbox(
        "Task",
        ["auto", *TASKS],
        key=TASK,
        format_func=lambda name: f"Automatic: {meant}" if name == "auto" else TASKS[name],
        help="The encoder reads one part of each sample and the decoder predicts the other, here and in the "
        "comparison. Span corruption is what T5, mT5 and ByT5 were trained on: 15 % of the tokens go missing, in "
        "spans, and the decoder says them. Continuation suits models tuned to answer, such as Flan-T5.",
    )


def _number(label: str, name: str, choice: CalibrationChoice, low: int, high: int, meaning: str) -> int:
    key = f"calibration.{name}"
    st.session_state.setdefault(key, min(max(int(getattr(choice, name)), low), high))
    return int(st.number_input(label, min_value=low, max_value=high, step=1, key=key, help=meaning))
