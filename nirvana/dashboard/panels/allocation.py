"""Controls of the Allocation page and their explanations."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from nirvana.allocation.rules import METHODS, RULES, rule_name, uses_gamma
from nirvana.allocation.shared import gammas_alike
from nirvana.dashboard import state
from nirvana.dashboard.panels.budget import budget_controls
from nirvana.dashboard.panels.fields import whole_number
from nirvana.dashboard.replan import Draft
from nirvana.layout import KV_GROUP, Layout
from nirvana.plan import PruningPlan
from nirvana.reporting.figures.allocation import gamma_label
from nirvana.reporting.text import count
from nirvana.runs.recipe import AllocationChoice
from nirvana.saliency.criteria import find_criterion
from nirvana.schema import limits

GAMMAS = (
    *(step / 10 for step in range(11)),
    *(1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.36, 3.75),
    *(4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0, 50.0, 100.0, math.inf),
)
PRESETS = {  # key: label, gamma, effect
    "attention": (
        "Attention only",
        0.0,
        "Only KV groups are removed. There are few of them, so little can be removed.",
    ),
    "equal": ("Equal rates", 1.0, "Attention and MLP lose the same share."),
    "paper3b": (
        "Paper, 3B",
        3.0,
        "Published for Llama-3.2-3B: the MLP loses three times the share of attention.",
    ),
    "paper8b": ("Paper, 8B", 3.36, "Published for Llama-3.1-8B."),
    "mlp": ("MLP only", math.inf, "Only neurons are removed."),
}
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SPARSITY, GAMMA, METHOD = "allocation.sparsity", "allocation.gamma", "allocation.method"
LEAST, MOST = 0.01, 0.99  # sparsities of the sliders
ROUNDS = (
    "In each round an equal part of the sparsity is removed, and the remaining units are scored again on the pruned, "
    "compensated model. Loss curves distribute the first round only. On SmolLM2-135M at 40 %, two rounds lose less "
    "with the measured allocation and more with the shared one."
)
METHOD_NAMES = {"shared": "Shared", "published": "Published", "measured": "Measured"}


def allocation_controls(choice: AllocationChoice, layout: Layout, criterion: str) -> AllocationChoice:
    """Sliders and presets, starting from `choice`; returns their values."""
    st.session_state.setdefault(METHOD, choice.method)
    st.session_state.setdefault(SPARSITY, min(max(choice.sparsity, LEAST), MOST))
    st.session_state.setdefault(GAMMA, choice.gamma)
    st.session_state.setdefault("allocation.multiple_of", choice.multiple_of)
    st.session_state.setdefault("allocation.uniform", choice.uniform)
    st.session_state.setdefault("allocation.normalisation", choice.normalisation)
    method = _method_control(criterion)
    fixed = not uses_gamma(method, criterion)
    sparsity = st.slider(
        "Sparsity",
        min_value=LEAST,
        max_value=MOST,
        step=0.01,
        format="percent",
        key=SPARSITY,
        help="Share of the attention and MLP weights to remove. Embeddings, norms and the head are never pruned.",
    )
    gamma = st.select_slider(
        "gamma: the MLP's rate over attention's",
        sorted({*GAMMAS, st.session_state[GAMMA]}),
        format_func=gamma_label,
        key=GAMMA,
        disabled=fixed,
        help="The ratio of the two pruning rates. 0 prunes attention only, 1 both at the same rate, ∞ the MLP only.",
    )
    if not fixed:
        st.caption(same_plan(layout, sparsity, gamma))
    with st.expander("Advanced", key="allocation.advanced"):
        advanced = _advanced(choice, layout, fixed)
    return AllocationChoice(
        sparsity=sparsity, gamma=gamma, method=method, widths=choice.widths, edits=choice.edits, **advanced
    )


def _advanced(choice: AllocationChoice, layout: Layout, fixed: bool) -> dict[str, Any]:
    """The controls that are seldom used; `fixed`: the method has no gamma."""
    layers = sorted({site.layer for site in layout})
    st.session_state.setdefault("allocation.protected", [layer for layer in choice.protected if layer in layers])
    with st.container(horizontal=True):
        for key, (label, value, help_text) in PRESETS.items():
            st.button(
                label,
                key=f"allocation.preset.{key}",
                help=f"gamma {gamma_label(value)}. {help_text}",
                disabled=fixed,
                on_click=_set,
                args=(GAMMA, value),
            )
    multiple_of = st.selectbox(
        "Multiple of MLP widths",
        sorted({*MULTIPLES, st.session_state["allocation.multiple_of"]}),
        key="allocation.multiple_of",
        help="1 follows the scores exactly. Hardware multiplies matrices in tiles: 8 suits most; the tensor cores of a "
        "GPU are best used from 64 on. 4-bit weights need 64 with bitsandbytes, and 128 in groups of 128 (GPTQ, AWQ).",
    )
    protected = st.multiselect(
        "Protected layers",
        layers,
        key="allocation.protected",
        placeholder="None",
        help="These layers keep every unit. They count in the target, so the other layers lose more.",
    )
    uniform = st.toggle("Equal widths in all layers", key="allocation.uniform", help=_equal_widths_help(layout))
    rounds = whole_number("Rounds", choice, "rounds", ROUNDS)
    normalisation = st.slider(
        "Score normalisation",
        **limits(AllocationChoice, "normalisation"),
        step=0.05,
        key="allocation.normalisation",
        disabled=fixed or rounds > 1,
        help=(
            "Exponent of the mean score by which a layer's scores are divided (0 = off). With 1 every layer has "
            "the same mean, so all layers lose about as much, and only the shape of a layer's scores matters."
        ),
    )
    return {
        **budget_controls(choice),
        "multiple_of": multiple_of,
        "protected": tuple(sorted(protected)),
        "uniform": uniform,
        "normalisation": 0.0 if fixed or rounds > 1 else normalisation,
        "rounds": rounds,
    }


def same_plan(layout: Layout, sparsity: float, gamma: float) -> str:
    """Which other values of gamma remove as many KV groups, in words: with few groups gamma acts in jumps."""
    groups = sum(layout[site].units for site in layout.pool(KV_GROUP))
    wanted, lowest, highest = gammas_alike(layout, sparsity=sparsity, gamma=gamma)
    first = gamma_label(math.floor(lowest * 100 + 1) / 100 if lowest else 0.0)
    last = gamma_label(highest if math.isinf(highest) else math.floor(highest * 100) / 100)
    return (
        f"gamma asks for {wanted:,} of {count(groups, 'KV group')}. They are removed whole, so any gamma from "
        f"{first} to {last} gives this plan."
    )


def in_rounds(now: state.Context, draft: Draft) -> Draft:
    """For a choice of several rounds, the run's plan if it is current, else the draft of one round as a preview."""
    if now.recipe.allocation.rounds == 1:
        return draft
    plan = now.run.plan() if state.state_of(now, "allocation") == "done" else None
    if plan is not None:
        return draft._replace(plan=plan, error=None)
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"**Preview of one round.** A plan of {now.recipe.allocation.rounds} rounds needs the model: the remaining "
            "units are scored again before each."
        )
        if st.button(
            "Make the plan", key="allocation.rounds.run", icon=":material/play_arrow:", disabled=now.job is not None
        ):
            state.submit("allocation")
    return draft


def trial_sparsity(key: str, words: str) -> float:
    """A slider of the trials' sparsity, in (0, 1), with widget key `key`."""
    share = st.slider("Sparsity", min_value=LEAST, max_value=MOST, step=0.01, format="percent", key=key, help=words)
    return float(share)


def _method_control(criterion: str) -> str:
    """Shared or published, with what that means for the criterion of the scores."""
    chosen = st.segmented_control(
        "Allocation rule",
        list(METHOD_NAMES),
        format_func=METHOD_NAMES.__getitem__,
        key=METHOD,
        wrap=True,
        required=True,
        help="Criteria compare fairly in two ways: each as its authors publish it, or all with the same allocation. "
        "Measured needs loss curves: the KL of each module pruned alone, which takes minutes.",
    )
    method = str(chosen)
    title, published = find_criterion(criterion).title, rule_name("published", criterion)
    if method != "published":
        words = RULES[method].summary
    elif published == "shared":
        words = f"{title} is published with the shared allocation. {RULES[published].summary}"
    else:
        words = f"{title} as published: {RULES[published].label}. {RULES[published].summary} gamma is not used."
    st.caption(words)
    return method


def _equal_widths_help(layout: Layout) -> str:
    words = (
        "Every layer keeps the same number of KV groups and of neurons, so a plain checkpoint, for every program "
        "that reads the base model, needs no padding. Scores choose the kept units, but not their number in each "
        "layer."
    )
    if layout.plain.same_units:
        words += " The self-attentions of a stack keep the same heads, since they share one position bias."
    if layout.plain.groups_divide:
        words += (
            " The number of heads has to divide the hidden size, so fewer KV groups may be removed than gamma asks for."
        )
    return words


def smallest_step(plan: PruningPlan) -> str:
    """Largest deviation from the target sparsity, in words."""
    if plan.method == "layers":
        return "one layer"
    return "one block of neurons in every layer" if plan.uniform else "one block of neurons"


def offer_reachable(draft: Draft) -> None:
    """A button that sets the highest reachable sparsity, where the target is above it."""
    best = math.floor(draft.reachable * 100) / 100
    if best > 0 and draft.reachable < st.session_state[SPARSITY]:
        st.button(
            f"Use {best:.0%}, the highest reachable sparsity",
            key="allocation.use_reachable",
            on_click=_set,
            args=(SPARSITY, best),
        )


def explain_gamma() -> None:
    """Explanation of gamma and the two rates."""
    st.markdown(
        "**Sparsity** $s$ is the share of all prunable weights to remove. **gamma** ($\\gamma$) ties the rates at "
        "which attention and MLP are pruned. With $A$ attention weights and $M$ MLP weights in the whole model:"
    )
    st.latex(r"v_\mathrm{attn} = s\,\frac{A + M}{A + \gamma M} \qquad v_\mathrm{mlp} = \gamma\, v_\mathrm{attn}")
    st.markdown(
        "KV groups and neurons are then ranked separately, each over all layers, and the lowest are removed. A "
        "layer's rate follows from its scores. KV groups are removed first, rounded down; the rest of the "
        "budget is taken from the MLP, so the target is met to within one block of neurons. "
        "Every layer keeps at least its best KV group and one block of its best neurons."
    )
    st.markdown(
        "That is the **shared allocation**, NIRVANA's own. The **measured allocation** has no gamma: it measures how "
        "KL grows as each module is pruned alone, and removes units where a parameter costs the least KL. Scores "
        "choose the units within a module. A criterion's authors may allocate otherwise, and scores such as norms of "
        "activations do not compare across layers. **As published** applies their rule:"
    )
    published = [rule for name, rule in RULES.items() if name not in METHODS]
    st.markdown("\n".join(f"- {rule.label}: {rule.summary}" for rule in published))


def _set(key: str, value: float) -> None:
    st.session_state[key] = value
