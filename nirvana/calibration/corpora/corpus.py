"""Corpus: documents in three splits that share no text, and how documents become splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nirvana.errors import CorpusError
from nirvana.files import content_hash

SPLITS = ("calibration", "probe", "evaluation")
SHARES = {"calibration": 0.45, "probe": 0.2, "evaluation": 0.35}  # of the characters
SECTION = 8_000  # characters: a few pages, so that evaluation text has long passages without a cut
SECTIONS = 30  # shorter texts are cut into more pieces, so that no split is empty
LONGEST_PATH = 4096  # characters
SEPARATOR = "\n\n"  # between documents, wherever they are joined (paper, evaluation: blank lines)


@dataclass(frozen=True)
class CorpusInfo:
    """A corpus that can be chosen by name, e.g. `CorpusInfo("python-docs", "Python reference", ..., offline=True)`.

    `offline`: its text is installed already.
    """

    name: str
    title: str
    description: str
    offline: bool


@dataclass(frozen=True)
class CorpusSplit:
    """The documents of one split, e.g. `load_corpus("python-docs").split("probe")`.

    `corpus_hash` is the hash of the whole corpus. `parts` are the same split of each part of a mixture, with equal
    numbers of windows drawn from each; empty for other corpora. `prompts` are the numbers of characters at the start of
    each document that are a prompt; empty for plain text.
    """

    corpus: str
    name: str
    documents: tuple[str, ...]
    corpus_hash: str = ""
    parts: tuple[CorpusSplit, ...] = ()
    prompts: tuple[int, ...] = ()

    @cached_property
    def hash(self) -> str:
        """Hash of the documents alone, 64 hex digits."""
        return content_hash(*self.documents)

    @property
    def text(self) -> str:
        """The documents joined with blank lines."""
        return SEPARATOR.join(self.documents)

    @property
    def source_hash(self) -> str:
        """Hash that results record: of the corpus, or of these documents without one."""
        return self.corpus_hash or self.hash

    @property
    def characters(self) -> int:
        return sum(map(len, self.documents))


@dataclass(frozen=True)
class Corpus:
    """Text for calibration, probes and evaluation, e.g. `load_corpus("python-docs")`.

    Splits are made by document before anything is tokenised, so no text is in two of them.

    Attributes:
        kind: "built-in", "data set", "file", "upload", "self-generated" or "mixture".
        splits: split name -> its documents, one entry for each of `SPLITS`.
        parts: the corpora of a mixture.
        prompts: split name -> characters at the start of each document that are a prompt; empty for plain text.

    Raises:
        CorpusError: a split is empty.
    """

    name: str
    description: str
    kind: str
    splits: Mapping[str, tuple[str, ...]]
    parts: tuple[Corpus, ...] = ()
    prompts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in SPLITS:
            if not self.splits.get(name):
                raise CorpusError(
                    f"The corpus {self.name} has no text for the {name} split.",
                    "Give more text: at least three documents that differ.",
                )

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[str],
        *,
        name: str,
        description: str = "",
        kind: str,
        shares: Mapping[str, float] = SHARES,
    ) -> Corpus:
        """Split documents by size in the proportions of `shares`.

        Raises:
            CorpusError: fewer than three different documents have text.
        """
        distinct = unique(documents)
        if len(distinct) < len(SPLITS):
            found = "no text" if not distinct else f"only {len(distinct)} different document(s)"
            raise CorpusError(
                f"The corpus {name} has {found}; its three splits need one each.",
                "Give more text: a .txt file of several paragraphs, or a .jsonl file of three or more records.",
            )
        return cls(name, description, kind, assign(distinct, shares))

    def split(self, name: str) -> CorpusSplit:
        """One of "calibration", "probe" and "evaluation".

        Raises:
            CorpusError: there is no split of that name.
        """
        if name not in SPLITS:
            raise CorpusError(f"There is no split {name!r}.", f"Splits are {', '.join(SPLITS)}.")
        parts = tuple(part.split(name) for part in self.parts)
        return CorpusSplit(self.name, name, self.splits[name], self.hash, parts, tuple(self.prompts.get(name, ())))

    @cached_property
    def hash(self) -> str:
        """Hash of the documents of all splits, 64 hex digits: the same text anywhere has the same hash."""
        return content_hash(*(content_hash(*self.splits[name]) for name in SPLITS))

    def __repr__(self) -> str:
        return f"Corpus({self.name}, {sum(len(text) for name in SPLITS for text in self.splits[name]):,} characters)"


Text = Corpus | CorpusSplit | str | Sequence[str]


def as_split(text: Text, name: str) -> CorpusSplit:
    """The split `name` of a corpus; a split, or plain text or documents, as they are.

    Raises:
        CorpusError: it is of another type, has no text, or names a file instead of holding its text.
    """
    if isinstance(text, Corpus):
        return text.split(name)
    if isinstance(text, CorpusSplit):
        split = text
    elif isinstance(text, str):
        if _names_a_file(text):
            raise CorpusError(f"{text} is a file's name, not its text.", f"Give nirvana.load_corpus({text!r}).")
        split = CorpusSplit("text", name, (text,))
    elif isinstance(text, Sequence) and all(isinstance(document, str) for document in text):
        split = CorpusSplit("text", name, tuple(text))
    else:
        raise CorpusError(f"{type(text).__name__} is not text.", "Give what load_corpus returns, or a string.")
    if not any(document.strip() for document in split.documents):
        raise CorpusError("There is no text.", "Give some pages of it.")
    return split


def _names_a_file(text: str) -> bool:
    try:
        return "\n" not in text and len(text) < LONGEST_PATH and Path(text).is_file()
    except (OSError, ValueError):  # no name of a file
        return False


def normal(text: str) -> str:
    """Comparison key of a text: case and white space do not count."""
    return " ".join(text.split()).casefold()


def unique(documents: Iterable[str], *, without: Iterable[str] = ()) -> list[str]:
    """The documents with text, without repetitions and without those in `without`, in order."""
    seen = {normal(document) for document in without}
    kept = []
    for document in documents:
        key = normal(document)
        if key and key not in seen:
            seen.add(key)
            kept.append(document)
    return kept


def assign(documents: Sequence[str], shares: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """Divide documents so that each split gets about its share of the characters, in their given order.

    Documents are taken in the order of their hashes, each for the split furthest below its share. So the result depends
    on the text alone, every part of the corpus is spread over the splits, and none is empty.
    """
    chosen: dict[str, list[int]] = {name: [] for name in shares}
    filled = dict.fromkeys(shares, 0.0)
    for index in sorted(range(len(documents)), key=lambda i: hashlib.sha256(documents[i].encode()).digest()):
        name = min(shares, key=lambda split: filled[split])
        chosen[name].append(index)
        filled[name] += len(documents[index]) / shares[name]
    return {name: tuple(documents[index] for index in sorted(indices)) for name, indices in chosen.items()}


_BOUNDARIES = (re.compile(r"\n[ \t]*\n\s*"), re.compile(r"\n\s*"), re.compile(r"(?<=[.!?])\s+"), re.compile(r"\s+"))


def sections(text: str, *, size: int) -> list[str]:
    """Cut running text into consecutive pieces of `size` to 2 `size` characters; the last may be shorter.

    Cuts are made at the first blank line after `size` characters, else at a line end, the end of a sentence or a space.
    """
    pieces, start = [], 0
    while len(text) - start > size:
        cuts = (boundary.search(text, start + size, start + 2 * size) for boundary in _BOUNDARIES)
        cut = next((match for match in cuts if match), None)
        end, following = (cut.start(), cut.end()) if cut else (start + 2 * size,) * 2
        pieces.append(text[start:end])
        start = following
    return [piece for piece in [*pieces, text[start:]] if piece.strip()]


def divide(text: str) -> list[str]:
    """Cut a text into documents: sections of a few pages, or shorter sections for a short text."""
    text = text.strip()
    return sections(text, size=max(1, min(SECTION, len(text) // SECTIONS)))


def gather(parts: Iterable[str], *, size: int, separator: str = SEPARATOR) -> list[str]:
    """Join consecutive short texts into documents of at least `size` characters; the last may be shorter."""
    documents, current, length = [], [], 0
    for part in parts:
        current.append(part)
        length += len(part)
        if length >= size:
            documents.append(separator.join(current))
            current, length = [], 0
    return [*documents, separator.join(current)] if current else documents


def as_corpus(text: Text) -> Corpus:
    """A corpus; or plain text or documents, divided into one.

    Raises:
        CorpusError: it is a single split, or too short to be divided.
    """
    if isinstance(text, Corpus):
        return text
    split = as_split(text, "calibration")
    if text is split:
        raise CorpusError(
            f"The {split.name} split of {split.corpus} has no other text to draw probes from.",
            "Give the whole corpus, or a probe set as well.",
        )
    documents = split.documents if len(split.documents) > 1 else divide(split.documents[0])
    return Corpus.from_documents(documents, name=split.corpus, kind="text")
