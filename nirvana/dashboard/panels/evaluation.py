"""Controls of the evaluation on the Compare page, and its cost."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.corpora import check_source, corpus_label, corpus_options
from nirvana.dashboard.panels.cost import expected, warn, words
from nirvana.dashboard.panels.fields import whole_number
from nirvana.dashboard.panels.messages import message, show_error
from nirvana.dashboard.panels.zero_shot import asked, task_controls
from nirvana.errors import NirvanaError
from nirvana.reporting.estimates import expected_seconds
from nirvana.reporting.figures.chart import count
from nirvana.runs.pace import read_pace
from nirvana.runs.recipe import EvaluationChoice

CORPORA, WINDOW, MAX_TOKENS = "compare.corpora", "compare.window", "compare.max_tokens"


def evaluation_controls(choice: EvaluationChoice) -> EvaluationChoice:
    """Controls of texts and, under "Advanced", of window, length and tasks, starting from `choice`."""
    st.session_state.setdefault(CORPORA, list(choice.corpora))
    options = corpus_options(*choice.corpora, *st.session_state[CORPORA])
    st.session_state[CORPORA] = [name for name in st.session_state[CORPORA] if name in options]
    own = not state.public_demo()
    corpora = st.multiselect(
        "Texts to measure perplexity on",
        options,
        key=CORPORA,
        format_func=corpus_label,
        accept_new_options=own,
        placeholder="Choose, or type a path or data set" if own else "Choose",
        help="The evaluation part of each, which shares no document with the calibration and probe samples."
        + (" Type the path of a .txt, .jsonl or .json file, or the id of a data set, to add it." if own else ""),
    )
    with st.expander("Advanced", key="compare.advanced"):
        choice = task_controls(choice)
        window = whole_number(
            "Window, in tokens",
            choice,
            "window",
            key=WINDOW,
            step=64,
            help="Text is cut into windows that do not overlap, and each token is predicted from those before it in "
            "its window. A shorter window gives a higher perplexity, so only equal windows are comparable. "
            "Published runs use 512.",
        )
        most = whole_number(
            "Tokens of each text, at most",
            choice,
            "max_tokens",
            key=MAX_TOKENS,
            step=4096,
            help="More tokens make the standard error smaller, and take longer.",
        )
    return choice.with_values(corpora=tuple(corpora), window=window, max_tokens=most)


def usable(choice: EvaluationChoice) -> bool:
    """Whether the choice can be measured; otherwise a hint is shown."""
    if choice.max_tokens < choice.window:
        message(
            f"{choice.max_tokens:,} tokens do not fill one window of {choice.window:,}.",
            "Use more tokens, or a shorter window.",
        )
        return False
    for name in choice.corpora:
        if name not in corpus_options():
            try:
                check_source(name)
            except NirvanaError as error:
                show_error(error)
                return False
    return True


def show_cost(now: state.Context) -> None:
    """Number of tokens to read, expected duration and memory, with a warning where that does not suffice."""
    recipe, choice = now.recipe, now.recipe.evaluation
    memory = expected(now, ["evaluate"])
    texts = (
        f"{count(len(choice.corpora), 'text')} of at most {choice.max_tokens:,} tokens" if choice.corpora else "no text"
    )
    text = f"{'All' if 'recover' in recipe.steps else 'Both'} models read {texts} and the probe for KL{asked(recipe)}"
    st.caption(f"{text}: {words(expected_seconds('evaluate', recipe, read_pace(recipe.model)), memory)}.")
    warn(memory)
