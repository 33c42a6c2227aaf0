"""Explanation of each criterion, with formulas."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from nirvana.reporting.glossary import meaning
from nirvana.reporting.text import plain
from nirvana.saliency.criteria import CRITERIA

UNITS = (
    f"A **KV group** is {meaning('KV group')}; a **neuron** is {meaning('neuron')}: a row of the gate and up "
    "projections with its column of the down projection. Each is one **unit**, kept or removed as a whole."
)
ALLOCATIONS = {
    "shared": "attention and MLP each ranked over all layers, their rates tied by gamma",
    "per-layer": "one rate in every layer, ranked within each",
    "per-layer-middle": "one rate in the middle layers, ranked within each; the first few and the last stay whole",
    "joint": "heads and neurons in one ranking over all layers, each counting its own parameters",
    "layers": "whole layers are removed",
}
COMPENSATIONS = {
    "none": "",
    "bias": ", and the mean of the removed units becomes a bias",
    "least_squares": ", and the remaining weights are fitted to compensate for the removed units",
}
SUM = (
    r"S(W_{ij}) = \left| \frac{\partial %s}{\partial W_{ij}}\, W_{ij} \right|"
    r"\qquad \mathrm{score}(\mathrm{unit}) = \sum_{W_{ij} \in\, \mathrm{unit}} S(W_{ij})"
)


class Explained(NamedTuple):
    """A paragraph and formulas in LaTeX."""

    text: str
    formulas: tuple[str, ...] = ()


EXPLAINED = {
    "nirvana": Explained(
        "**NIRVANA** estimates the change of the *output* when a weight is set to zero. To first order that is "
        "the weight times the gradient of the output, so a weight's saliency is the magnitude of that product. "
        "The output is reduced to a scalar, $f$: for each calibration sample $b$ and each entry $v$ of the "
        "vocabulary, the "
        "highest logit over all positions $t$, averaged. Gradients add up over the samples before the absolute value "
        "is taken. A unit's score is the sum over its weights. (arXiv 2509.14230)",
        (r"f = \operatorname*{mean}_{b,\,v}\; \max_{t}\; \mathrm{logits}[b, t, v]", SUM % "f"),
    ),
    "nirvana-vocab": Explained(
        "**NIRVANA with the maximum over the vocabulary**: the same saliency, but $f$ is the highest logit at each "
        "position, averaged over positions. Only the predicted tokens count, where as published every "
        "vocabulary entry counts equally. A variant to measure the effect of the published choice.",
        (r"f = \operatorname*{mean}_{b,\,t}\; \max_{v}\; \mathrm{logits}[b, t, v]", SUM % "f"),
    ),
    "nirvana-per-sample": Explained(
        "**NIRVANA with the absolute value per sample**: as published, gradients of different samples may cancel. "
        "Here each sample has its own saliency, and these are summed. Samples run one at a time, so it takes "
        "longer. A variant to measure the effect of the order of sum and absolute value.",
        (
            r"S(W_{ij}) = \sum_b \left| \frac{\partial f_b}{\partial W_{ij}}\, W_{ij} \right|"
            r"\qquad f_b = \operatorname*{mean}_{v}\; \max_{t}\; \mathrm{logits}[b, t, v]",
        ),
    ),
    "taylor": Explained(
        "**Taylor**, of LLM-Pruner, estimates the change of the *loss* when a weight is set to zero: the mean negative "
        "log-likelihood of the tokens of the calibration set. (arXiv 2305.11627)",
        (r"L = -\operatorname*{mean}_{b,\,t}\; \log p(x_{b,t+1} \mid x_{b,\le t})", SUM % "L"),
    ),
    "second-order": Explained(
        "**Second order** assumes that the remaining weights compensate for removed units. The loss that "
        "remains when the output projection $W$ is fitted without a unit's columns follows in closed form from "
        "the second moment "
        "$G$ of its input; rows are weighted by the squared gradient $a_i$ of the loss at the projection's output. "
        "Units are removed one by one, with compensation after each, so of two redundant units only the first "
        "is cheap. For pruning with least squares. (As in ZipLM, arXiv 2302.04089)",
        (r"\mathrm{score}_j = \sum_i a_i\, \frac{W_{ij}^2}{[G^{-1}]_{jj}}",),
    ),
    "flap": Explained(
        "**FLAP** keeps features that fluctuate. A feature of low variance over the tokens can be replaced by "
        "its mean, so the importance of an input feature $j$ of the output projection is its variance times "
        "the squared norm of its column. For attention that is squared. It is averaged over a unit's features. "
        "Scores are standard deviations from the "
        "layer's mean, so about half are negative. (arXiv 2312.11983)",
        (
            r"\mathrm{WIFV}_j = \operatorname{Var}_t(X_{t,j})\; \lVert W_{:,j} \rVert_2^2"
            r"\qquad \mathrm{score}_j = \frac{\mathrm{WIFV}_j - \mathrm{mean}}{\mathrm{std}}",
        ),
    ),
    "wanda-sp": Explained(
        "**Wanda-sp** multiplies the magnitude of the output projection's weights with the norm of their "
        "inputs, averaged over its rows and summed over a unit's columns. Norms are not comparable between "
        "layers, so its authors rank units within each layer. (arXiv 2306.11695, structured in 2312.11983)",
        (
            r"\mathrm{score}(\mathrm{unit}) = \sum_{j \in\, \mathrm{unit}} \operatorname*{mean}_i "
            r"|W_{ij}|\; \lVert X_{:,j} \rVert_2",
        ),
    ),
    "block-influence": Explained(
        "**Block influence**, of ShortGPT, is a score of whole layers: the change of direction of the hidden "
        "states by a layer. All units of a layer have its score. (arXiv 2403.03853)",
        (r"\mathrm{BI} = 1 - \operatorname*{mean}_t\; \cos(h_t^{\mathrm{in}}, h_t^{\mathrm{out}})",),
    ),
    "magnitude": Explained(
        "**Magnitude** uses the weights alone: a unit's score is the sum of their absolute values. It ignores "
        "the activations, and global magnitude pruning ruins most language models. A baseline.",
        (r"\mathrm{score}(\mathrm{unit}) = \sum_{W_{ij} \in\, \mathrm{unit}} \left| W_{ij} \right|",),
    ),
    "random": Explained(
        "**Random** draws a score for each unit, from a seed. It is the baseline for every other criterion."
    ),
}


def criterion_title(criterion: str) -> str:
    """Title of a criterion, as Markdown; the name of an unknown one, such as an old run's."""
    return CRITERIA[criterion].title if criterion in CRITERIA else plain(criterion)


def describe_criterion(criterion: str) -> str:
    """Measured quantity and published allocation of a criterion, as Markdown."""
    if criterion not in CRITERIA:
        return "Unknown criterion."
    known = CRITERIA[criterion]
    start = known.description[0].upper() + known.description[1:]
    return f"{start}. As published: {ALLOCATIONS[known.published]}{COMPENSATIONS[known.compensation]}."


def explain_criterion(criterion: str) -> None:
    """Paragraph and formulas of `criterion`, then the definition of a unit."""
    explained = EXPLAINED.get(criterion)
    if explained is not None:
        st.markdown(explained.text)
        for formula in explained.formulas:
            st.latex(formula)
    st.markdown(UNITS)
