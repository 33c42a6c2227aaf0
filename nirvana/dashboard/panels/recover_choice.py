"""Controls of the Recover page."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nirvana.dashboard import state
from nirvana.dashboard.panels.corpora import corpus_label, corpus_options
from nirvana.dashboard.panels.fields import one_of, real_number, whole_number
from nirvana.jobs.demo import MINUTES
from nirvana.recovery.options import PUBLISHED
from nirvana.runs.describe import RECOVERIES
from nirvana.runs.recipe import RecoveryChoice

METHOD, CORPUS = "recover.method", "recover.corpus"
METHODS = {"none": "Off", **{name: words.capitalize() for name, words in RECOVERIES.items()}}
MEANINGS = {
    "none": "The run ends in the pruned model.",
    "distill": "The pruned model learns the dense model's next-token predictions: KL( dense || pruned ) is minimised.",
    "lora": "Small matrices beside the weights are trained on the text, and merged into them. Published with NIRVANA "
    "and LLM-Pruner.",
    "full": "All weights are trained to predict the text.",
}
DECAYS = {"cosine": "Cosine", "linear": "Linear"}
PROMPTS = {"masked": "Not in the loss", "counted": "In the loss"}
AUTOCAST = {"auto": "Where it is faster", "bfloat16": "Always", "never": "Never"}
CHECKPOINTING = {"auto": "Where memory is short", "always": "Always", "never": "Never"}


def recovery_controls(choice: RecoveryChoice) -> RecoveryChoice:
    """Controls of method and budget in a row and, under "Advanced", all others, starting from `choice`."""
    st.session_state.setdefault(METHOD, choice.method)
    chosen = st.pills(
        "Method",
        list(METHODS),
        key=METHOD,
        wrap=True,
        format_func=METHODS.__getitem__,
        required=True,
        help=" ".join(f"**{METHODS[name]}**: {words}" for name, words in MEANINGS.items()),
    )
    method = str(chosen)
    minutes = real_number(
        "Minutes",
        choice,
        "minutes",
        "Time of training and measuring; 0 for a budget of tokens or epochs, under Advanced.",
        key="recover.minutes",
        step=5.0,
        most=MINUTES if state.public_demo() else 100_000,
        format="%g",
        disabled=method == "none",
    )
    st.caption(MEANINGS[method])
    with st.expander("Advanced", icon=":material/tune:", key="recover.advanced"):
        values = _advanced(choice, method)
    return choice.with_values(method=method, minutes=minutes, **values)


def _advanced(choice: RecoveryChoice, method: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def whole(name: str, label: str, help: str = "", **more: Any) -> None:
        found[name] = whole_number(label, choice, name, help, key=f"recover.{name}", **more)

    def real(name: str, label: str, help: str = "", **more: Any) -> None:
        found[name] = real_number(label, choice, name, help, key=f"recover.{name}", **more)

    def word(name: str, label: str, names: dict[str, str]) -> None:
        found[name] = one_of(label, choice, name, names, key=f"recover.{name}")

    st.button(
        "Use the published settings",
        key="recover.published",
        icon=":material/menu_book:",
        on_click=_take_published,
        help="Those of NIRVANA's recovery of Llama-3.1-8B: adapters, 2 epochs. It trains on instructions; choose such "
        "a text.",
    )
    with st.grid(2, min_column_width=130):
        found["corpus"] = _text(choice)
        whole("length", "Tokens in a window", step=64)
        word("prompts", "Prompts of instructions", PROMPTS)
        whole("seed", "Seed")
        whole("tokens", "Tokens, at most", "0 for no limit. The first budget that is spent ends the training.")
        whole("epochs", "Epochs, at most", "Passes over the text; 0 to draw windows at random instead.")
        whole("checks", "Checks", "Measurements on held-out text within the budget. The best one is kept.")
        word("autocast", "bfloat16 products", AUTOCAST)
        rate = "0 for 0.1 over the hidden width, or 0.0001 with adapters."
        real("learning_rate", "Learning rate", rate, step=1e-5, most=0.5, format="%.1e")
        word("decay", "Decay", DECAYS)
        whole("warmup", "Warm-up, in steps")
        real("clip", "Gradient norm, at most", step=0.5, least=1e-3, most=1e5, format="%g")
        whole("batch", "Windows in a step")
        whole("micro_batch", "Windows in a forward pass", "Fewer take less memory, and more time.")
        word("checkpointing", "Recompute activations", CHECKPOINTING)
        whole("rank", "Rank of the adapters", "0 trains all weights, and adapters of rank 8 with that method.")
        adapted = bool(found["rank"]) or method == "lora"
        whole("alpha", "Alpha of the adapters", disabled=not adapted)
        real("dropout", "Dropout of the adapters", step=0.05, most=0.95, format="%g", disabled=not adapted)
    return found


def _text(choice: RecoveryChoice) -> str:
    st.session_state.setdefault(CORPUS, choice.corpus)
    options = ["", *corpus_options(*filter(None, (choice.corpus, st.session_state[CORPUS])))]
    if st.session_state[CORPUS] not in options:
        st.session_state[CORPUS] = ""
    return str(
        st.selectbox(
            "Text to train on",
            options,
            key=CORPUS,
            format_func=lambda name: corpus_label(name) if name else "The calibration text",
            help="Its calibration split is trained on; other splits are held out. Add texts on the Calibration page.",
        )
    )


def _take_published() -> None:
    for name, value in PUBLISHED.items():
        st.session_state[f"recover.{name}"] = value
