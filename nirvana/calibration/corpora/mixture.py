"""Mixtures: several corpora as one, with windows drawn uniformly from each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations, zip_longest

from nirvana.calibration.corpora.corpus import SPLITS, Corpus
from nirvana.errors import CorpusError
from nirvana.files import local_path

PLUS = " + "


def part_names(name: str) -> list[str]:
    """Names of the corpora of a mixture: "a + b" -> ["a", "b"]. An existing file with " + " in its name is one corpus.

    Raises:
        CorpusError: one of the names is empty.
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
    """One corpus of several. Samples, probes and statistics draw equal numbers of windows from each part, whatever its
    size. For perplexity the documents of the parts alternate.

    Raises:
        CorpusError: fewer than two corpora, or one is given twice.
    """
    parts = tuple(chain.from_iterable(corpus.parts or (corpus,) for corpus in corpora))
    if len(parts) < 2:
        raise CorpusError("A mixture needs two corpora or more.", "Name another, or use the one corpus alone.")
    hashes = [part.hash for part in parts]
    for part in parts:
        if hashes.count(part.hash) > 1:
            raise CorpusError(f"{part.name} is in the mixture twice.", "Name each text once.")
    splits = {name: _in_turns([part.splits[name] for part in parts]) for name in SPLITS}
    return Corpus(PLUS.join(part.name for part in parts), "Uniform mixture of several texts.", "mixture", splits, parts)


def all_of(corpora: Sequence[Corpus]) -> Corpus:
    """One corpus of several, each text once: a mixture, or the corpus itself where all are the same."""
    parts = {part.hash: part for corpus in corpora for part in corpus.parts or (corpus,)}
    return mix(list(parts.values())) if len(parts) > 1 else next(iter(parts.values()))


def with_mixtures(corpora: Sequence[Corpus], mixtures: bool = True) -> list[Corpus]:
    """The corpora and, with `mixtures`, their uniform mixtures: of all, and of each pair if there are three.

    Raises:
        CorpusError: a text is given twice.
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
    """The corpus or mixture of that name; each part is read by `load`.

    Raises:
        CorpusError: see `part_names` and `mix`, and what `load` raises.
    """
    names = part_names(name)
    return load(name) if len(names) == 1 else mix([load(part) for part in names])


def shares(samples: int, parts: int) -> list[int]:
    """Number of `samples` windows from each part: equal, one more for the first parts where they do not divide.

    Raises:
        CorpusError: fewer windows than parts.
    """
    if samples < parts:
        raise CorpusError(f"{samples} windows cannot be drawn from {parts} texts.", f"Draw {parts} or more.")
    return [samples // parts + (part < samples % parts) for part in range(parts)]


def _is_file(name: str) -> bool:
    try:
        return local_path(name, CorpusError).is_file()
    except CorpusError:  # several names together may exceed the length of a path
        return False


def _in_turns(documents: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(text for turn in zip_longest(*documents) for text in turn if text is not None)


def _texts(corpus: Corpus) -> frozenset[str]:
    return frozenset(part.hash for part in corpus.parts or (corpus,))
