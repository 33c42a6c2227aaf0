"""Controls of the Allocation page and what they mean."""

from __future__ import annotations

import math

import streamlit as st

from nirvana.layout import Layout
from nirvana.runs.recipe import AllocationChoice
from nirvana.ui.figures.allocation import gamma_label
from nirvana.ui.replan import Draft

GAMMAS = (
    *(
        0.0,
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
        0.8,
        0.9,
        1.0,
        1.25,
        1.5,
        1.75,
        2.0,
        2.25,
        2.5,
        2.75,
        3.0,
        3.36,
        3.75,
    ),
    *(4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0, 50.0, 100.0, math.inf),
)
PRESETS = {  # key: label, gamma, what to expect
    "attention": (
        "Attention only",
        0.0,
        "Only KV groups go. There are few of them, so little can be removed.",
    ),
    "equal": ("Equal rates", 1.0, "Attention and MLP lose the same share."),
    "paper3b": (
        "Paper, 3B",
        3.0,
        "Published for Llama-3.2-3B: the MLP loses three times the share of attention.",
    ),
    "paper8b": ("Paper, 8B", 3.36, "Published for Llama-3.1-8B."),
    "mlp": ("MLP only", math.inf, "Only neurons go; every KV group stays."),
}
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)
SPARSITY, GAMMA = "allocation.sparsity", "allocation.gamma"


def allocation_controls(choice: AllocationChoice, layout: Layout) -> AllocationChoice:
    """Sliders and presets, starting from `choice`; the result is what they say now."""
    default = AllocationChoice()  # where a recipe holds a value that no control can show
    st.session_state.setdefault(SPARSITY, choice.sparsity if 0 <= choice.sparsity <= 1 else default.sparsity)
    st.session_state.setdefault(GAMMA, choice.gamma if choice.gamma >= 0 else default.gamma)
    st.session_state.setdefault("allocation.multiple_of", max(1, choice.multiple_of))
    layers = sorted({site.layer for site in layout})
    st.session_state.setdefault("allocation.protected", [layer for layer in choice.protected if layer in layers])
    left, right = st.columns(2)
    sparsity = left.slider(
        "Sparsity",
        min_value=0.0,
        max_value=1.0,
        step=0.01,
        format="percent",
        key=SPARSITY,
        help="Share of the attention and MLP weights to remove. Embeddings, norms and the head are never pruned.",
    )
    gamma = right.select_slider(
        "gamma: how much faster the MLP is pruned than attention",
        sorted({*GAMMAS, st.session_state[GAMMA]}),
        format_func=gamma_label,
        key=GAMMA,
        help="0 prunes attention only, 1 both at the same rate, ∞ the MLP only.",
    )
    with st.container(horizontal=True):
        for key, (label, value, help_text) in PRESETS.items():
            st.button(
                label,
                key=f"allocation.preset.{key}",
                help=f"gamma {gamma_label(value)}. {help_text}",
                type="secondary",
                on_click=_set,
                args=(GAMMA, value),
            )
    left, right = st.columns(2)
    multiple_of = left.selectbox(
        "Keep MLP widths at multiples of",
        sorted({*MULTIPLES, st.session_state["allocation.multiple_of"]}),
        key="allocation.multiple_of",
        help="Hardware multiplies matrices in tiles; 8 suits most. 1 follows the scores exactly.",
    )
    protected = right.multiselect(
        "Protected layers",
        layers,
        key="allocation.protected",
        placeholder="None",
        help="These keep every unit. They still count in the target, so the other layers lose more.",
    )
    return AllocationChoice(sparsity, gamma, multiple_of, tuple(sorted(protected)))


def offer_reachable(draft: Draft) -> None:
    """A button that sets the sparsity to the most that can be removed, where that is the trouble."""
    best = math.floor(draft.reachable * 100) / 100
    if best > 0 and draft.reachable < st.session_state[SPARSITY]:
        st.button(
            f"Use {best:.0%}, the most that gamma {gamma_label(st.session_state[GAMMA])} can reach",
            key="allocation.use_reachable",
            on_click=_set,
            args=(SPARSITY, best),
        )


def explain_gamma() -> None:
    """Where the two rates come from."""
    st.markdown(
        "**Sparsity** $s$ is the share of all prunable weights that goes. **gamma** ($\\gamma$) ties the rates at "
        "which attention and MLP are pruned. With $A$ attention weights and $M$ MLP weights in the whole model:"
    )
    st.latex(r"v_\mathrm{attn} = s\,\frac{A + M}{A + \gamma M} \qquad v_\mathrm{mlp} = \gamma\, v_\mathrm{attn}")
    st.markdown(
        "KV groups are then ranked against KV groups and neurons against neurons, each over all layers at once, and "
        "the lowest go. Nothing sets a layer's own rate: it follows from its scores. Whole KV groups are taken first, "
        "rounded down; the MLP takes what is left of the budget, so the total is met to within one block of neurons. "
        "Every layer keeps at least its best KV group and one block of its best neurons."
    )


def _set(key: str, value: float) -> None:
    st.session_state[key] = value
