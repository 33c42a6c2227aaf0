"""The built-in probe: pairs are well formed, unique, always the same, and out of reach of a model that counts words."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest

from nirvana.calibration.corpora.registry import load_corpus
from nirvana.errors import TaskError
from nirvana.evaluation.zero_shot.minimal_pairs import PAIRS, minimal_pairs
from nirvana.evaluation.zero_shot.phenomena import PHENOMENA

WORD = re.compile(r"[A-Za-z]+")


def words(sentence: str) -> list[str]:
    return [word.lower() for word in WORD.findall(sentence)]


@pytest.fixture(scope="module")
def counts(extracted_texts: Path) -> Counter[str]:
    """How often each word occurs in the built-in corpora python-docs and library-docs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIRVANA_HOME", str(extracted_texts.parents[1]))
        found: Counter[str] = Counter()
        for name in ("python-docs", "library-docs"):
            for documents in load_corpus(name).splits.values():
                for document in documents:
                    found.update(words(document))
    return found


def test_there_are_a_dozen_phenomena_of_a_hundred_pairs() -> None:
    assert len(PHENOMENA) == 12 and PAIRS == 100
    assert all(key == phenomenon.key and phenomenon.title for key, phenomenon in PHENOMENA.items())


@pytest.mark.parametrize("key", PHENOMENA)
def test_pairs_are_well_formed_and_unique(key: str) -> None:
    pairs = minimal_pairs(key)
    assert len(pairs) == len(set(pairs)) == PAIRS
    good, bad = {pair.good for pair in pairs}, {pair.bad for pair in pairs}
    assert not good & bad
    for pair in pairs:
        for sentence in pair:
            assert re.fullmatch(r"[A-Z][A-Za-z ,]*[a-z]\.", sentence), sentence
            assert "  " not in sentence and " ," not in sentence, sentence
        assert not re.search(r" a [aeiou]| an [^aeiou]", pair.good), pair
        one, other = pair.good.split(), pair.bad.split()
        assert len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) == 1, pair


def test_no_pair_is_in_two_phenomena() -> None:
    pairs = [pair for key in PHENOMENA for pair in minimal_pairs(key)]
    assert len(set(pairs)) == 1200


@pytest.mark.parametrize("key", PHENOMENA)
def test_a_unigram_model_is_right_half_the_time(key: str, counts: Counter[str]) -> None:
    total, known = counts.total(), len(counts) + 1

    def score(sentence: str) -> float:
        return sum(math.log((counts[word] + 1) / (total + known)) for word in words(sentence))

    right = 0.0
    for pair in minimal_pairs(key):
        good, bad = score(pair.good), score(pair.bad)
        right += 0.5 if math.isclose(good, bad) else good > bad
    assert 0.45 <= right / PAIRS <= 0.55


@pytest.mark.parametrize("key", PHENOMENA)
def test_what_one_pair_has_right_its_twin_has_wrong(key: str) -> None:
    pairs = minimal_pairs(key)
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        differences = [Counter(pair.good.split()) for pair in (first, second)]
        for difference, pair in zip(differences, (first, second), strict=True):
            difference.subtract(Counter(pair.bad.split()))
        lower = [
            Counter({word.lower().strip("."): n for word, n in each.items() if n}) for each in differences
        ]  # a sentence's first or last word may be the one
        assert all(lower[0][word] == -lower[1][word] for word in lower[0] | lower[1])


def test_pairs_are_the_same_every_time_and_fewer_are_the_first_of_more() -> None:
    assert minimal_pairs("anaphor-gender") == minimal_pairs("anaphor-gender")
    assert minimal_pairs("anaphor-gender", count=7) == minimal_pairs("anaphor-gender")[:7]
    first = minimal_pairs("agreement-simple", count=1)[0]
    assert first == ("The dancer works on Sundays.", "The dancer work on Sundays.")


def test_an_unknown_phenomenon_is_refused() -> None:
    with pytest.raises(TaskError, match="anaphor-gender"):
        minimal_pairs("spelling")
