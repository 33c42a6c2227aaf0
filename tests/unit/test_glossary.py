"""The glossary: one definition a term, which the pages use."""

from __future__ import annotations

import re

import pytest

from nirvana.dashboard.guide import GUIDES, PAGES
from nirvana.reporting.glossary import TERMS, find_term, meaning, terms_in, tooltip

WANTED = (
    "saliency", "KV group", "neuron", "gamma", "sparsity", "calibration set", "KL divergence", "perplexity",
    "tangent kernel", "SignGD", "compensation", "least squares", "distillation", "probe", "split", "plan", "step",
    "study", "measurement", "comparison", "unit", "run", "recipe", "seed",
)  # fmt: skip
NOT_TERMS = {"layers", "attention", "MLP", "Tuning", "seeds", "experiment"}  # of introductions, explained there


@pytest.mark.parametrize("name", WANTED)
def test_the_glossary_defines(name: str) -> None:
    assert find_term(name).name == name
    assert find_term(name.upper()) is find_term(name)


def test_each_form_of_a_name_belongs_to_one_term() -> None:
    forms = [form.lower() for term in TERMS for form in (term.name, *term.others)]
    assert len(forms) == len(set(forms))
    assert all(term.page in ("", *GUIDES) for term in TERMS)


def test_definitions_are_sentences() -> None:
    for term in TERMS:
        assert not term.meaning.endswith(".")
        assert term.text.endswith(".") and ".." not in term.text
        assert not term.more or term.more.endswith(".")


@pytest.mark.parametrize("guide", PAGES, ids=lambda guide: guide.key)
def test_introductions_define_no_term_differently(guide: object) -> None:
    about = guide.about  # type: ignore[attr-defined]
    for bold in re.findall(r"\*\*([^*]+)\*\*", about):
        if bold in NOT_TERMS:
            continue
        term = find_term(bold)
        after = about.partition(f"**{bold}**")[2]
        said = re.match(r" is (an?|the|one) |, (an?|the|one) ", after)
        assert said is None or after.startswith((f" is {term.meaning}", f", {term.meaning}"))


def test_the_tooltip_has_the_terms_in_bold_once_and_in_order() -> None:
    text = "**Units** and their **saliency**; a **unit** is no **cat**, and gamma is not bold."
    assert [term.name for term in terms_in(text)] == ["unit", "saliency"]
    assert tooltip(text).split("\n\n")[0] == f"**unit**: {find_term('unit').text}"
    assert tooltip("No term.") == ""


def test_a_meaning_completes_a_sentence() -> None:
    assert f"Sparsity is {meaning('sparsity')}." == "Sparsity is the share of attention and MLP weights to remove."
    with pytest.raises(KeyError):
        meaning("cat")
