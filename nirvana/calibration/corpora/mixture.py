"""Mixtures: several corpora as one, with windows drawn uniformly from each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations, zip_longest

from nirvana.calibration.corpora.corpus import SPLITS, Corpus
from nirvana.errors import CorpusError
from nirvana.files import local_path

PLUS = " + "


def part_names(name: str) -> list[str]:
    """The corpora that a name asks for, e.g. "a + b" -> ["a", "b"]; a file whose own name has " + " is one of them.

    Raises:
        CorpusError: one of several has no name.
    """
    if PLUS not in f" {name} ":
        return [name]
    pieces, names = f" {name} ".split(PLUS), []
    while pieces:
        longer = range(len(pieces), 1, -1)
        size = next((count for count in longer if _is_file(PLUS.join(pieces[:count]).strip())), 1)
        names.append(PLUS.join(pieces[:size]).strip())
        del pieces[:size]
    if not all(names):
        raise CorpusError(f"A part of the mixture {name!r} has no name.", 'Write "first + second".')
    return names


def mix(corpora: Sequence[Corpus]) -> Corpus:
    """One corpus of several. Samples, probes and statistics draw as many windows from each part, whatever its size.

    Read as running text, for perplexity, the documents of its parts take turns.

    Raises:
        CorpusError: there are fewer than two, or one comes twice.
    """
    parts = tuple(chain.from_iterable(corpus.parts or (corpus,) for corpus in corpora))
    if len(parts) < 2:
        raise CorpusError("A mixture is of two corpora or more.", "Name another, or use the one by itself.")
    hashes = [part.hash for part in parts]
    for part in parts:
        if hashes.count(part.hash) > 1:
            raise CorpusError(f"{part.name} is in the mixture twice.", "Name each text once.")
    splits = {name: _in_turns([part.splits[name] for part in parts]) for name in SPLITS}
    return Corpus(PLUS.join(part.name for part in parts), "Equal shares of several texts.", "mixture", splits, parts)


def all_of(corpora: Sequence[Corpus]) -> Corpus:
    """One corpus of several, each text once: a mixture, or the corpus itself where all are the same."""
    parts = {part.hash: part for corpus in corpora for part in corpus.parts or (corpus,)}
    return mix(list(parts.values())) if len(parts) > 1 else next(iter(parts.values()))


def with_mixtures(corpora: Sequence[Corpus], mixtures: bool = True) -> list[Corpus]:
    """The corpora and, with `mixtures`, their uniform mixtures: all, and of up to three each pair.

    Raises:
        CorpusError: a text is there twice.
    """
    found = list(corpora)
    if mixtures and len(found) > 1:
        pairs = list(combinations(corpora, 2)) if len(corpora) == 3 else []
        known = {_texts(corpus) for corpus in corpora}
        for together in (*map(all_of, pairs), all_of(corpora)):
            if _texts(together) not in known:
                known.add(_texts(together))
                found.append(together)
    hashes = [corpus.hash for corpus in found]
    for corpus in found:
        if hashes.count(corpus.hash) > 1:
            raise CorpusError(f"{corpus.name} is given twice.", "Name each text once.")
    return found


def load_parts(name: str, load: Callable[[str], Corpus]) -> Corpus:
    """The corpus of that name, or the mixture that it names, each part read by `load`.

    Raises:
        CorpusError: see `part_names` and `mix`, and what `load` raises.
    """
    names = part_names(name)
    return load(name) if len(names) == 1 else mix([load(part) for part in names])


def shares(samples: int, parts: int) -> list[int]:
    """How many of `samples` windows each part gives: equal numbers, one more for the first where they do not divide.

    Raises:
        CorpusError: there are fewer windows than parts.
    """
    if samples < parts:
        raise CorpusError(f"{samples} windows cannot be drawn from {parts} texts.", f"Draw {parts} or more.")
    return [samples // parts + (part < samples % parts) for part in range(parts)]


def _is_file(name: str) -> bool:
    try:
        return local_path(name, CorpusError).is_file()
    except CorpusError:  # several names may be longer together than a path can be
        return False


def _in_turns(documents: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(text for turn in zip_longest(*documents) for text in turn if text is not None)


def _texts(corpus: Corpus) -> frozenset[str]:
    return frozenset(part.hash for part in corpus.parts or (corpus,))
