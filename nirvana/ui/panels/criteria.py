"""What each criterion measures, in a paragraph and a formula."""

from __future__ import annotations

import streamlit as st

UNITS = (
    "A **KV group** is one key and one value head with all the query heads that read them; a **neuron** is one row of "
    "an MLP's gate and up projections with its column of the down projection. Each is one **unit**: it stays or goes "
    "as a whole."
)

NIRVANA = (
    "**NIRVANA** asks how much the *output* changes when a weight is set to zero. To first order that is the weight "
    "times the gradient of the output, so a weight's saliency is the size of that product. The output is summed up in "
    "one number, $f$: for each calibration sample $b$ and each entry $v$ of the vocabulary, the highest logit over all "
    "positions $t$, averaged. Gradients add up over the samples before the absolute value is taken. A unit's score is "
    "the sum over its weights."
)

MAGNITUDE = (
    "**Magnitude** looks at the weights alone: a unit's score is the sum of their absolute values. No text is read. It "
    "knows nothing of what the weights are multiplied with, and global magnitude pruning ruins most language models: "
    "choose it to see that."
)

RANDOM = (
    "**Random** draws a score for each unit, from a seed. A criterion that prunes no better than this has learned "
    "nothing: it is the line to beat."
)


def explain_criterion(criterion: str) -> None:
    """One paragraph about `criterion`, with its formula; then what a unit is."""
    if criterion == "nirvana":
        st.markdown(NIRVANA)
        st.latex(r"f = \operatorname*{mean}_{b,\,v}\; \max_{t}\; \mathrm{logits}[b, t, v]")
        st.latex(
            r"S(W_{ij}) = \left| \frac{\partial f}{\partial W_{ij}}\, W_{ij} \right|"
            r"\qquad \mathrm{score}(\mathrm{unit}) = \sum_{W_{ij} \in\, \mathrm{unit}} S(W_{ij})"
        )
    elif criterion == "magnitude":
        st.markdown(MAGNITUDE)
        st.latex(r"\mathrm{score}(\mathrm{unit}) = \sum_{W_{ij} \in\, \mathrm{unit}} \left| W_{ij} \right|")
    elif criterion == "random":
        st.markdown(RANDOM)
    st.markdown(UNITS)
