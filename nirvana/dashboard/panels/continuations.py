"""Greedy continuations of a prompt by both models, and earlier ones."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.page import table_and_csv
from nirvana.jobs.tasks.continuation import PROMPT_LENGTH, ContinueRequest
from nirvana.reporting.figures.chart import count, plus_minus
from nirvana.reporting.shading import legend, shaded, text_perplexity, token_table
from nirvana.runs.results import Continuation, ScoredText
from nirvana.schema import limits

PROMPT, CHAT, LENGTH, SHOWN = "compare.prompt", "compare.chat", "compare.new_tokens", "compare.continuation"


def ask(now: state.Context) -> None:
    """A prompt, and the button to continue it with both models."""
    card = now.run.model()
    template = bool(card and card.has_chat_template)
    st.text_area(
        "Prompt",
        key=PROMPT,
        max_chars=PROMPT_LENGTH,
        height=100,
        placeholder="The capital of France is",
        persist_state="session",
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.session_state.setdefault(LENGTH, 64)
        st.number_input(
            "New tokens, at most",
            step=16,
            key=LENGTH,
            width=160,
            **limits(ContinueRequest, "max_new_tokens"),
            help="A model may end its text earlier.",
        )
        st.toggle(
            "Chat template",
            key=CHAT,
            disabled=not template,
            help=(
                "Formats the prompt as a user's message in the model's chat template. Off, the model continues the "
                "text."
            )
            if template
            else "This model has no chat template.",
        )
        prompt = str(st.session_state.get(PROMPT) or "")
        if st.button(
            "Continue with both models",
            key="compare.continue",
            icon=":material/edit_note:",
            disabled=now.job is not None or now.run.info("prune") is None,
            help="Greedy decoding: the same prompt always gives the same text.",
        ):
            chat = template and bool(st.session_state.get(CHAT))
            st.session_state.pop(SHOWN, None)  # the new one is shown
            state.start_task("continue", prompt=prompt, chat=chat, max_new_tokens=int(st.session_state[LENGTH]))


def history(found: list[Continuation]) -> None:
    """The last or the chosen continuation."""
    if not found:
        st.caption("No prompt was continued yet.")
        return
    newest = list(reversed(range(len(found))))
    if st.session_state.get(SHOWN, newest[0]) not in newest:
        st.session_state.pop(SHOWN)
    index = newest[0]
    if len(found) > 1:
        index = st.selectbox("Prompts, newest first", newest, key=SHOWN, format_func=lambda each: _label(found[each]))
    show(found[index])


def show(item: Continuation) -> None:
    """Prompt and both continuations as plain text, shaded by probability where recorded."""
    st.caption("Prompt" + (", in the chat template" if item.chat else ""))
    st.code(item.prompt, language=None, wrap_lines=True)
    for name, text, column in zip(("Dense", "Pruned"), (item.dense, item.pruned), st.columns(2), strict=True):
        with column:
            st.markdown(f"**{name}**")
            if item.scored:
                _judged(name, item.scored[name.lower()])
            else:
                st.code(text or "(ends immediately)", language=None, wrap_lines=True, height=_height(text))
    if item.scored:
        st.html(legend())
        table_and_csv("compare.tokens.table", token_table(item.scored))
    st.caption(f"{agreement(item)} Greedy, at most {count(item.max_new_tokens, 'new token')}.")


def _judged(writer: str, text: ScoredText) -> None:
    """One model's continuation, shaded by its probability under that model, then under the other."""
    first, second = ("dense", "pruned") if writer == "Dense" else ("pruned", "dense")
    for judge in (first, second):
        found = plus_minus(text_perplexity(getattr(text, judge)), None)
        st.caption(f"Probability under the {judge} model" + (f": perplexity {found}" if text.texts else ""))
        with st.container(border=True, height=_height("".join(text.texts))):
            st.html(shaded(text, judge))


def _height(text: str) -> int | Literal["content"]:
    """A broken model may generate only line ends, which scroll."""
    return 240 if text.count("\n") >= 10 else "content"


def agreement(item: Continuation) -> str:
    """Length of the common beginning of both texts, in a sentence."""
    if item.dense == item.pruned:
        return "Both models generate the same text."
    both = zip(item.dense, item.pruned, strict=False)
    same = next(
        (place for place, (one, other) in enumerate(both) if one != other), min(len(item.dense), len(item.pruned))
    )
    return f"They differ after {count(same, 'character')}." if same else "They differ from the first character."


def _label(item: Continuation) -> str:
    line = " ".join(item.prompt.split())
    line = line if len(line) <= 70 else f"{line[:69]}…"
    return f"{line} ({'chat, ' if item.chat else ''}{count(item.max_new_tokens, 'token')})"
