"""Greedy continuations of a prompt by each model of the run, and earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.page import table_and_csv
from nirvana.jobs.tasks.continuation import PROMPT_LENGTH, ContinueRequest
from nirvana.reporting.figures.chart import count, plus_minus
from nirvana.reporting.shading import legend, shaded, text_perplexity, token_table
from nirvana.runs.recovery import has_weights
from nirvana.runs.results import Continuation, ScoredText
from nirvana.schema import limits

PROMPT, CHAT, LENGTH, SHOWN = "compare.prompt", "compare.chat", "compare.new_tokens", "compare.continuation"
WRITERS, JUDGE = "compare.writers", "compare.judge"


def ask(now: state.Context) -> None:
    """A prompt, and the button to continue it with each model."""
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
            f"Continue with {'all' if has_weights(now.run) else 'both'} models",
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
    """Prompt and continuations as plain text, shaded by probability where recorded."""
    st.caption("Prompt" + (", in the chat template" if item.chat else ""))
    st.code(item.prompt, language=None, wrap_lines=True)
    writers, judge = _choose(item)
    for writer, column in zip(writers, st.columns(len(writers)), strict=True):
        with column:
            st.markdown(f"**{writer.capitalize()}**")
            text = item.texts[writer]
            if item.scored:
                others = [name for name in item.texts if name != writer]
                _judged(item.scored[writer], [judge or writer] if len(others) > 1 else [writer, *others])
            else:
                st.code(text or "(ends immediately)", language=None, wrap_lines=True, height=_height(text))
    if item.scored:
        st.html(legend())
        table_and_csv("compare.tokens.table", token_table(item.scored))
    st.caption(f"{agreement(item)} Greedy, at most {count(item.max_new_tokens, 'new token')}.")


def excerpts(found: Sequence[Continuation], most: int = 2) -> None:
    """The newest continuations, a column for each model, as plain text."""
    for item in found[-most:]:
        st.markdown("**Each model continues a prompt**" + (", in the chat template" if item.chat else ""))
        st.code(item.prompt, language=None, wrap_lines=True)
        for (writer, text), column in zip(item.texts.items(), st.columns(len(item.texts)), strict=True):
            with column:
                st.caption(writer.capitalize())
                st.code(text.strip() or "(ends immediately)", language=None, wrap_lines=True, height=_height(text))


def _choose(item: Continuation) -> tuple[list[str], str]:
    """The texts to show, and the model whose probabilities shade them; "" for each text's own. Two texts are shown
    without a choice.
    """
    subjects = list(item.texts)
    if len(subjects) < 3:
        return subjects, ""
    with st.container(horizontal=True):
        chosen = st.pills(
            "Texts", subjects, key=WRITERS, default=subjects, selection_mode="multi", format_func=str.capitalize
        )
        judge = st.segmented_control(
            "Shaded by the probability under",
            ["", *subjects],
            key=JUDGE,
            wrap=True,
            default="",
            required=True,
            format_func=lambda name: name.capitalize() or "Its own model",
            disabled=not item.scored,
            help="A pruned model's text shows under the dense model where it leaves what that would write.",
        )
    return [name for name in subjects if name in chosen] or subjects, str(judge)


def _judged(text: ScoredText, judges: Sequence[str]) -> None:
    """A text once for each judge, shaded by its probability under that model."""
    for judge in judges:
        found = plus_minus(text_perplexity(text.under[judge]), None)
        st.caption(f"Probability under the {judge} model" + (f": perplexity {found}" if text.texts else ""))
        with st.container(border=True, height=_height("".join(text.texts))):
            st.html(shaded(text, judge))


def _height(text: str) -> int | Literal["content"]:
    """A broken model may generate only line ends, which scroll."""
    return 240 if text.count("\n") >= 10 else "content"


def agreement(item: Continuation) -> str:
    """Length of the common beginning of the dense text and each other, in sentences."""
    dense, *others = item.texts
    if len(set(item.texts.values())) == 1:
        return "Both models generate the same text." if len(others) == 1 else "All models generate the same text."
    if len(others) == 1:
        same = _common(*item.texts.values())
        return f"They differ after {count(same, 'character')}." if same else "They differ from the first character."
    lengths = [f"the {name} one {count(_common(item.texts[dense], item.texts[name]), 'character')}" for name in others]
    return f"The dense text shares a beginning with the others: {', '.join(lengths)}."


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _label(item: Continuation) -> str:
    line = " ".join(item.prompt.split())
    line = line if len(line) <= 70 else f"{line[:69]}…"
    return f"{line} ({'chat, ' if item.chat else ''}{count(item.max_new_tokens, 'token')})"
