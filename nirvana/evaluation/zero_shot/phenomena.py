"""The phenomena of the minimal pairs, each a template for two pairs at a time.

The word that distinguishes the good sentence of one pair distinguishes the bad sentence of the other. So word
frequencies favour one good and one bad sentence, and a unigram model is right half the time, on any corpus.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from nirvana.evaluation.zero_shot import words

T = TypeVar("T")


class Pair(NamedTuple):
    """Two sentences that differ in a word: one grammatical, one not."""

    good: str
    bad: str


Couple = tuple[Pair, Pair]


class Draw:
    """Seeded choices."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def one(self, options: Sequence[T]) -> T:
        return options[int(self._random.random() * len(options))]

    def two(self, options: Sequence[T]) -> tuple[T, T]:
        """Two that differ."""
        first = int(self._random.random() * len(options))
        second = int(self._random.random() * (len(options) - 1))
        return options[first], options[second + (second >= first)]


class Phenomenon(NamedTuple):
    """A grammatical phenomenon, e.g. `Phenomenon("anaphor-gender", "Reflexive agrees in gender", ...)`."""

    key: str
    title: str
    couple: Callable[[Draw], Couple]


def plural(noun: str) -> str:
    return words.PLURALS.get(noun, f"{noun}s")


def _swap(first: tuple[str, str], second: tuple[str, str], this: str, that: str) -> Couple:
    """`this` fits the gap of the first frame, `that` the second; the bad sentences swap them."""
    one, other = (
        Pair(f"{before}{good}{after}", f"{before}{bad}{after}")
        for (before, after), good, bad in ((first, this, that), (second, that, this))
    )
    return one, other


def agreement_simple(draw: Draw) -> Couple:
    noun = draw.one(words.PEOPLE)
    one, many, rest = draw.one(words.VERBS)
    after = f" {draw.one(rest)}."
    return _swap((f"The {noun} ", after), (f"The {plural(noun)} ", after), one, many)


def agreement_phrase(draw: Draw) -> Couple:
    if draw.one((True, False)):
        noun, other = draw.two(words.PEOPLE)
        join = draw.one(words.BESIDE)
        one, many, rest = draw.one(words.VERBS)
        after = f" {draw.one(rest)}."
    else:
        noun, join, other = draw.one(words.PARTS)
        one, many = draw.one(words.BE)
        after = f" {draw.one(words.STATES)}."
    singular = f"The {noun} {join} the {plural(other)} "
    return _swap((singular, after), (f"The {plural(noun)} {join} the {other} ", after), one, many)


def agreement_clause(draw: Draw) -> Couple:
    noun, other = draw.two(words.PEOPLE)
    verb = draw.one(words.TRANSITIVE)
    # No verb that is also a noun: "who the visitors needed work" begins like another sentence.
    one, many, rest = draw.one([verb for verb in words.VERBS if verb[1] not in words.NOUNS_TOO])
    after = f" {draw.one(rest)}."
    clause = draw.one((f"who the {{}} {verb}", f"who {verb} the {{}}"))
    singular = f"The {noun} {clause.format(plural(other))} "
    return _swap((singular, after), (f"The {plural(noun)} {clause.format(other)} ", after), one, many)


def anaphor_gender(draw: Draw) -> Couple:
    if draw.one((True, False)):
        her, him = draw.one(words.WOMEN), draw.one(words.MEN)
    else:
        her, him = f"The {draw.one(words.FEMALE)}", f"The {draw.one(words.MALE)}"
    verb, after = draw.one(words.REFLEXIVE), f" {draw.one(words.WHEN)}."
    return _swap((f"{her} {verb} ", after), (f"{him} {verb} ", after), "herself", "himself")


def anaphor_number(draw: Draw) -> Couple:
    nouns, one = draw.one(((words.FEMALE, "herself"), (words.MALE, "himself")))
    noun, verb, after = draw.one(nouns), draw.one(words.REFLEXIVE), f" {draw.one(words.WHEN)}."
    return _swap((f"The {noun} {verb} ", after), (f"The {plural(noun)} {verb} ", after), one, "themselves")


def determiner_noun(draw: Draw) -> Couple:
    name = draw.one(words.WOMEN + words.MEN)
    verb = draw.one(("bought", "found", "sold", "likes", "wants", "lost", "saw", "kept"))
    one, many = draw.one((("this", "these"), ("that", "those")))
    between = draw.one(("", f"{draw.one(words.ADJECTIVES)} "))
    noun, after = draw.one(words.THINGS), f" {draw.one(words.WHEN)}." if verb[-1] != "s" else "."
    start = f"{name} {verb} "
    return _swap((f"{start}{one} {between}", after), (f"{start}{many} {between}", after), noun, plural(noun))


def irregular_past(draw: Draw) -> Couple:
    past, participle, thing = draw.one(words.IRREGULAR)
    who = f"The {draw.one(words.PEOPLE)}"
    return _swap((f"{who} ", f" {thing}."), (f"{who} has ", f" {thing}."), past, participle)


def negative_polarity(draw: Draw) -> Couple:
    noun, other = draw.two(words.PEOPLE)
    if draw.one((True, False)):
        verb = draw.one(words.PERFECT)
        return _swap((f"The {noun} has not {verb} ", "."), (f"The {noun} has {verb} ", "."), "yet", "already")
    bare, past = draw.one(words.ACTIONS)
    negative = f"The {noun} did not {bare}, and the {other} did not {bare} "
    return _swap((negative, "."), (f"The {noun} {past}, and the {other} {past} ", "."), "either", "too")


def filler_gap(draw: Draw) -> Couple:
    name = draw.one(words.WOMEN + words.MEN)
    start = f"{name} {draw.one(words.THINKS)} "
    clause = f" the {draw.one(words.PEOPLE)} {draw.one(words.FOUND)}"
    return _swap((start, f"{clause}."), (start, f"{clause} the {draw.one(words.THINGS)}."), "what", "that")


def quantifiers(draw: Draw) -> Couple:
    if draw.one((True, False)):
        thing, spot = draw.one(words.SMALL_THINGS), draw.one(words.SPOTS)
        name = draw.one(words.WOMEN + words.MEN)
        partitive = (f"{name} {draw.one(words.OWNED)} ", f" one of the {plural(thing)}.")
        return _swap(("There was ", f" {thing} {spot}."), partitive, "a", "every")
    start = f"The {draw.one(words.PEOPLE)} {draw.one(('does not have', 'did not see', 'does not need'))} "
    mass, things = draw.one(words.MASSES), plural(draw.one(words.THINGS))
    return _swap((start, f" {mass}."), (start, f" {things}."), "much", "many")


def argument_structure(draw: Draw) -> Couple:
    noun, other = draw.two(words.PEOPLE)
    needs, none = draw.one(words.TRANSITIVE), draw.one(words.INTRANSITIVE)
    place = draw.one(words.PLACED)
    return _swap((f"The {noun} ", f" the {other} {place}."), (f"The {noun} ", f" {place}."), needs, none)


def pronoun_case(draw: Draw) -> Couple:
    noun, verb = draw.one(words.PEOPLE), draw.one(words.TRANSITIVE)
    nominative, accusative = draw.one(words.PRONOUNS)
    when = draw.one(words.WHEN)
    object_, subject = (
        (f"The {noun} {verb} ", f" {when}."),
        (
            f"{when[0].upper()}{when[1:]} ",
            f" {verb} the {noun}.",
        ),
    )
    return _swap(object_, subject, accusative, nominative)


PHENOMENA = {
    phenomenon.key: phenomenon
    for phenomenon in (
        Phenomenon("agreement-simple", "Verb agrees with its subject", agreement_simple),
        Phenomenon("agreement-phrase", "Verb agrees across a phrase", agreement_phrase),
        Phenomenon("agreement-clause", "Verb agrees across a relative clause", agreement_clause),
        Phenomenon("anaphor-gender", "Reflexive agrees in gender", anaphor_gender),
        Phenomenon("anaphor-number", "Reflexive agrees in number", anaphor_number),
        Phenomenon("determiner-noun", "Noun agrees with its determiner", determiner_noun),
        Phenomenon("irregular-past", "Past tense and participle", irregular_past),
        Phenomenon("negative-polarity", "Words licensed by negation", negative_polarity),
        Phenomenon("filler-gap", "A question word and its gap", filler_gap),
        Phenomenon("quantifiers", "Quantifiers and what they count", quantifiers),
        Phenomenon("argument-structure", "Verbs with and without object", argument_structure),
        Phenomenon("pronoun-case", "Case of pronouns", pronoun_case),
    )
}
