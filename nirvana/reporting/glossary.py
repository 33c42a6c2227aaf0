"""The glossary: each term of the pages defined once. Imports neither streamlit nor torch."""

from __future__ import annotations

import re
from typing import NamedTuple


class Term(NamedTuple):
    """A term and its definition.

    Attributes:
        name: as pages write it.
        meaning: a phrase that completes "<name> is ...", without a full stop.
        more: further sentences; may be empty.
        page: key of the page that shows it; empty without one.
        others: other forms of the name in texts.
    """

    name: str
    meaning: str
    more: str = ""
    page: str = ""
    others: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole definition, in sentences."""
        return f"{self.meaning[0].upper()}{self.meaning[1:]}." + (f" {self.more}" if self.more else "")


TERMS = (
    Term(
        "allocation",
        "the distribution of the weights to remove over layers, attention and MLP",
        "A rule decides it, from the scores or from measured loss.",
        "allocation",
    ),
    Term(
        "calibration set",
        "a small sample of text on which units are scored",
        "Its windows share no document with the text of any measurement.",
        "calibration",
        ("calibration text",),
    ),
    Term(
        "comparison",
        "several runs side by side, each against its own dense model, on the same text",
        page="compare",
    ),
    Term(
        "compensation",
        "a change of the remaining weights of an output projection that makes its output closer to the dense model's",
        "It has a closed form and needs no training.",
        "prune",
    ),
    Term("dense model", "the model before pruning", page="model", others=("dense",)),
    Term(
        "distillation",
        "training that teaches the pruned model the dense model's predictions",
        page="recover",
    ),
    Term(
        "gamma",
        "the ratio of the MLP's pruning rate to attention's",
        "0 prunes attention only, 1 both at the same rate, infinity the MLP only.",
        "allocation",
    ),
    Term(
        "KL divergence",
        "the mean over tokens of the sum over the vocabulary of p log(p / q), with the dense model's predictions p and "
        "the pruned model's q, in nats",
        "0 where both predict alike. It is measured on probe text.",
        "calibration",
        ("KL",),
    ),
    Term(
        "KV group",
        "a key-value head with its query heads",
        "It is the unit of attention: its rows of the key, value and query projections and its columns of the output "
        "projection are removed together.",
        "saliency",
        ("KV groups",),
    ),
    Term(
        "least squares",
        "the compensation that fits the remaining weights to the dense projection's output on calibration text",
        "The squared error of that output is the least that weights of this shape can reach.",
        "prune",
    ),
    Term("measurement", "one number with its protocol: model, text, tokens, window, standard error", page="compare"),
    Term(
        "neuron",
        "one of the hidden values of an MLP",
        "It is the unit of the MLP: a row of the gate and up projections and a column of the down projection.",
        "saliency",
        ("neurons",),
    ),
    Term(
        "perplexity",
        "the exponential of the mean loss per token",
        "Lower is better, and 1 would be certainty. It depends on text, window and tokenizer: compare equal protocols.",
        "compare",
    ),
    Term("plan", "the list of the units that stay, for every layer", page="allocation"),
    Term(
        "probe",
        "a sample of text on which KL is measured",
        "It shares no document with the calibration set.",
        "calibration",
        ("probe text",),
    ),
    Term("recipe", "all choices that determine a run", page="home"),
    Term("recovery", "a short training of the pruned model", page="recover"),
    Term("run", "one recipe with the results of its steps", page="runs"),
    Term(
        "saliency",
        "an estimate of how much the output would change without a unit",
        "NIRVANA's is the sum of |df/dW * W| over the unit's weights, with f the mean over the vocabulary of each "
        "entry's highest logit over the positions.",
        "saliency",
        ("score",),
    ),
    Term("seed", "the number that determines random draws", "Several seeds show how much of a difference is chance."),
    Term(
        "SignGD",
        "gradient descent by the signs of the gradient: every weight moves by the same amount",
        "The paper uses it as an approximation of Adam.",
        "method",
    ),
    Term(
        "sparsity",
        "the share of attention and MLP weights to remove",
        "Embeddings, norms and the output head are never pruned and do not count.",
        "allocation",
    ),
    Term(
        "split",
        "one of the disjoint parts of a text, for calibration, probe and evaluation",
        "No document is in two of them.",
        "calibration",
    ),
    Term(
        "step",
        "a stage of the pipeline: model, calibration, saliency, allocation, prune, recover or evaluate",
        page="home",
    ),
    Term(
        "structured pruning",
        "the removal of whole rows and columns of weight matrices",
        "What remains is an ordinary, smaller model.",
        "home",
    ),
    Term("study", "many points around one recipe, each measured alike, such as a sweep or a search", page="sweep"),
    Term("sweep", "the study of all combinations of some choices", page="sweep"),
    Term(
        "tangent kernel",
        "the inner product of the output's gradients by the weights at two inputs",
        "Under SignGD one of the two gradients is replaced by its signs, so at one input it is the sum of |df/dW|.",
        "method",
    ),
    Term(
        "unit",
        "the smallest removable part of a model: a KV group or a neuron",
        page="saliency",
        others=("units",),
    ),
)

_BY_FORM = {form.lower(): term for term in TERMS for form in (term.name, *term.others)}
_BOLD = re.compile(r"\*\*([^*]+)\*\*")


def find_term(form: str) -> Term:
    """The term of a name or another form of it, in any case.

    Raises:
        KeyError: it is not in the glossary.
    """
    return _BY_FORM[form.lower()]


def meaning(name: str) -> str:
    """The phrase that defines a term, for a sentence such as f"**Sparsity** is {meaning('sparsity')}."."""
    return find_term(name).meaning


def terms_in(text: str) -> list[Term]:
    """Terms that a Markdown text has in bold, in order, each once."""
    found = (_BY_FORM.get(bold.lower()) for bold in _BOLD.findall(text))
    return list(dict.fromkeys(term for term in found if term is not None))


def tooltip(text: str) -> str:
    """Definitions of the terms that a Markdown text has in bold, as Markdown; empty without one."""
    return "\n\n".join(f"**{term.name}**: {term.text}" for term in terms_in(text))
