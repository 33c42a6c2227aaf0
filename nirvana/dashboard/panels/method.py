"""Screens of the Method page that need no measurement: the two-weight network, units, KV groups and gamma."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard import selection, state
from nirvana.dashboard.panels import page
from nirvana.dashboard.panels.allocation import GAMMAS, same_plan
from nirvana.dashboard.panels.charts import show_chart
from nirvana.dashboard.panels.model import inspected, loaded_card
from nirvana.dashboard.replan import load_saliency
from nirvana.layout import ATTENTION, CROSS_ATTENTION, KV_GROUP, MLP, NEURON, Layout, Site
from nirvana.reporting.figures.allocation import gamma_label
from nirvana.reporting.figures.distributions import score_curve
from nirvana.reporting.figures.drawings import Described, heads_drawn, unit_in_matrices
from nirvana.reporting.figures.gamma import rates_in_jumps
from nirvana.reporting.figures.toy import kernel_map, removal
from nirvana.reporting.glossary import meaning
from nirvana.reporting.text import count, short
from nirvana.reporting.toy import Toy
from nirvana.saliency.criteria import find_criterion
from nirvana.saliency.scores import Saliency

START = Toy(1.6, 1.2, 0.7)
TOY = "nirvana.toy"  # the weights and the input, which two screens share
LIMITS = {"w1": 3.0, "w2": 2.0, "x": 2.0}
NAMES = {"w1": "w1, into the neuron", "w2": "w2, out of the neuron", "x": "Input x"}
SCREENS = ("kernel", "removal")
KIND = "method.unit.kind"


def described(now: state.Context) -> Described | None:
    """The open run's model as it was loaded, else by its config."""
    name = now.recipe.model.name
    return now.run.model() or loaded_card(name, now) or inspected(name)[0]


@st.fragment
def kernel() -> None:
    """The tangent kernel under SignGD in the two-weight network."""
    controls, picture = page.stage("method.kernel")
    with controls:
        st.latex(r"\Theta = \langle \nabla f, \operatorname{sign} \nabla f \rangle = \lVert \nabla f \rVert_1")
        toy = _toy("kernel")
        size = st.slider("Step size", 0.05, 1.0, 0.5, 0.05, key="method.kernel.size")
        st.caption(
            f"f = w2 tanh(w1 x). **SignGD** is {meaning('SignGD')}. A small step changes f by its size times the "
            "kernel."
        )
    with picture:
        show_chart("method.kernel", kernel_map(toy, size))
    st.markdown(
        "Adam's steps are close to signs of the gradient, so the paper studies training with SignGD. The **tangent "
        f"kernel** is {meaning('tangent kernel')}; with signs in place of one of them, and at one input, it is the sum "
        "of all |df/dW|. It is the speed at which training can still move the output. The paper's aim: remove weights, "
        "and leave this speed as it is."
    )


@st.fragment
def removed() -> None:
    """Why |df/dW * W|: the change of the output when a weight is removed."""
    controls, picture = page.stage("method.removal")
    with controls:
        st.latex(r"f(0) - f(w) \approx -\frac{\partial f}{\partial w}\, w")
        toy = _toy("removal")
        st.caption("The score of a weight is the size of this prediction, |df/dw * w|.")
    with picture:
        show_chart("method.removal", removal(toy))
    st.markdown(
        "One backward pass gives the prediction for every weight. It is exact where f is linear in the weight, and "
        "wrong where the tangent at the full weight says nothing about the way to zero: move w1 to 3, where tanh is "
        "flat. **First order** shows how often that happens in a real model."
    )


def unit(now: state.Context) -> None:
    """Why a sum over a unit: its rows and columns, and its score in the run."""
    card = described(now)
    if card is None:
        _without_model(now)
        return
    scores = load_saliency(now.run)
    if scores is not None and scores.layout.sites != card.layout.sites:
        scores = None  # of another model than the draft's
    controls, picture = page.stage("method.unit")
    with controls:
        st.latex(r"\mathrm{score}(u) = \sum_{W_{ij} \in u} \left| \tfrac{\partial f}{\partial W_{ij}} W_{ij} \right|")
        site, number = _selected_unit(card.layout)
    kind = card.layout[site].kind
    with picture:
        show_chart("method.unit", unit_in_matrices(card, kind, number, _score(scores, site, number)))
    st.markdown(
        f"A **unit** is {meaning('unit')}. A matrix gets smaller only if a whole row or column goes, so weights are "
        "scored one by one and removed by units. The sum over a unit is not divided by the number of its weights: a "
        "unit costs what it holds, and all units of a ranking hold equally many."
    )
    if scores is not None:
        show_chart("method.unit.scores", score_curve(scores, site, now.run.plan()))


def _selected_unit(layout: Layout) -> tuple[Site, int]:
    """Controls of the selected unit, which is that of all pages."""
    modules = {KV_GROUP: ATTENTION, NEURON: MLP}
    module = selection.selected(layout).module
    st.session_state[KIND] = NEURON if module == MLP else KV_GROUP

    def take_kind() -> None:
        selection.choose(layout, module=modules[str(st.session_state[KIND])])

    st.segmented_control("Unit", list(modules), required=True, key=KIND, on_change=take_kind)
    if len(layout.layers(selection.selected(layout).stack)) > 1:
        selection.layer_control(layout, "method.unit.layer")
    found = selection.selected(layout)
    site = found.site._replace(module=ATTENTION) if found.module == CROSS_ATTENTION else found.site
    most, key = layout[site].units - 1, f"method.unit.{'kv' if layout[site].kind == KV_GROUP else 'mlp'}"
    number = found.unit if found.unit is not None and found.site == site else 0
    st.session_state[key] = number
    st.number_input(f"Number, 0 to {most}", 0, most, key=key, on_change=selection.take(layout, key, "unit"))
    return site, number


def groups(now: state.Context) -> None:
    """A KV group in multi-head, grouped-query and multi-query attention."""
    card = described(now)
    if card is None:
        _without_model(now)
        return
    geometry = card.geometry
    controls, picture = page.stage("method.groups")
    each = geometry["heads"] // geometry["kv_heads"]
    with controls:
        st.latex(r"\text{weights} = 2\, d\, (g + 1)\, H")
        st.markdown(
            f"- d = {geometry['head_dim']:,}, width of a head\n- g = {each:,}, query heads per KV head\n"
            f"- H = {geometry['hidden']:,}, hidden size\n\n"
            f"= **{2 * geometry['head_dim'] * (each + 1) * geometry['hidden']:,}** weights"
        )
        st.caption(f"A **KV group** is {meaning('KV group')}.")
    with picture:
        show_chart("method.groups", heads_drawn(geometry, now.recipe.model.name))
    st.markdown(
        "In multi-head attention (**MHA**) every query head has a key and a value head of its own. Grouped-query "
        "attention (**GQA**) shares one among several, multi-query attention (**MQA**) one among all: then every layer "
        "has a single group, and attention cannot be pruned by groups. A query head alone is not a unit: without it "
        "its KV head would serve fewer heads than in other groups, and the library's own forward pass could not run."
    )


@st.fragment
def gamma(now: state.Context) -> None:
    """How gamma tilts the budget, on sliders of its own."""
    card = described(now)
    if card is None:
        _without_model(now)
        return
    choice = now.recipe.allocation
    controls, picture = page.stage("method.gamma")
    with controls:
        st.latex(r"v_\mathrm{attn} = s\,\frac{A + M}{A + \gamma M}")
        st.latex(r"v_\mathrm{mlp} = \gamma\, v_\mathrm{attn}")
        st.session_state.setdefault("method.gamma.sparsity", min(max(choice.sparsity, 0.01), 0.99))
        st.session_state.setdefault("method.gamma.gamma", choice.gamma)
        sparsity = st.slider(
            "Sparsity", min_value=0.01, max_value=0.99, step=0.01, format="percent", key="method.gamma.sparsity"
        )
        value = st.select_slider(
            "gamma",
            sorted({*GAMMAS, st.session_state["method.gamma.gamma"]}),
            format_func=gamma_label,
            key="method.gamma.gamma",
            help="These sliders only draw. Those of the Allocation page choose.",
        )
        st.caption(same_plan(card.layout, sparsity, value))
    with picture:
        show_chart("method.gamma", rates_in_jumps(card.layout, sparsity, value))
    total = sum(card.layout[site].units for site in card.layout.pool(KV_GROUP))
    st.markdown(
        f"A = {card.layout.pool_parameters(KV_GROUP):,} attention and M = {card.layout.pool_parameters(NEURON):,} MLP "
        f"weights. There are {count(total, 'KV group')}, so attention's rate moves in steps of {1 / total:.2%}: "
        "between two steps another gamma gives the same plan. The fewer groups a model has, the larger the steps. "
        "Which groups and neurons go is decided by two rankings over all layers."
    )
    page.page_link("allocation")


def _toy(screen: str) -> Toy:
    """Sliders of both weights and the input."""
    values = st.session_state.setdefault(TOY, START._asdict())
    for name, most in LIMITS.items():
        key = f"method.{screen}.{name}"
        st.session_state.setdefault(key, values[name])
        st.slider(NAMES[name], -most, most, step=0.1, key=key, on_change=_share, args=(screen, name))
    return Toy(**{name: float(st.session_state[f"method.{screen}.{name}"]) for name in LIMITS})


def _share(screen: str, name: str) -> None:
    """Both screens have the same network."""
    value = st.session_state[f"method.{screen}.{name}"]
    st.session_state[TOY] = {**st.session_state[TOY], name: value}
    for other in SCREENS:
        st.session_state[f"method.{other}.{name}"] = value


def _score(scores: Saliency | None, site: Site, number: int) -> str:
    """The unit's score and rank in the run."""
    if scores is None:
        return ""
    kind = scores.layout[site].kind
    pool = sum(scores.layout[each].units for each in scores.layout.pool(kind))
    return (
        f"Score by {find_criterion(scores.criterion).title}: {short(float(scores[site][number]))}, number "
        f"{int(scores.ranks[site][number]) + 1:,} of {count(pool, kind)} in the order of removal."
        + ("" if scores.criterion == "nirvana" else " The formula is NIRVANA's.")
    )


def _without_model(now: state.Context) -> None:
    st.info("The model's config cannot be read, so its units are unknown. Choose the model first.")
    page.page_link("model")
