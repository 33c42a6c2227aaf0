"""Extract running prose from technical text: only paragraphs of sentences are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from nirvana.calibration.corpora.corpus import normal

MINIMUM_WORDS = 8
_RULE = re.compile(r"^\s*[*=\-~^\"'#+_.]{3,}\s*$")
_MARKER = re.compile(r"^(?:[*•+-]|\d{1,2}[.)]|\[\d+\])\s+")
_VERSION_NOTE = re.compile(r"^(?:New|Added|Changed|Deprecated|Removed)\b.{0,30}\bversion\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?:][\"”’')\]]*$")
_NOT_PROSE = re.compile(r"::=|>>>|\.\.\.\s*\||[{}\\|]|\+-{2}|={2,}|~{2,}|<[a-z_]+>\s*=|^Traceback")


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of sentences in indented, wrapped plain text, each on one line.

    Headings, code, doctests, tables, grammar, signatures and notes on versions are dropped, with the sentence that
    introduces them ("For example:"); list items become paragraphs, and marks of emphasis and footnotes are removed.
    """
    announcement = ""
    for block in re.split(r"\n[ \t]*\n", text.expandtabs()):
        for lines in _items(block):
            paragraph = _clean(_unwrap(lines))
            if not is_prose(paragraph):
                announcement = ""
            elif paragraph.endswith(":"):
                announcement = paragraph
            else:
                if announcement:
                    yield announcement
                announcement = ""
                yield paragraph


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph consists of sentences: long enough, closed, begun with a capital, and mostly letters."""
    words = paragraph.split()
    if len(words) < MINIMUM_WORDS or _NOT_PROSE.search(paragraph) or _VERSION_NOTE.match(paragraph):
        return False
    first = paragraph.lstrip("\"“‘'(*")[:1]
    plain = sum(character.isalpha() or character.isspace() for character in paragraph)
    return bool(first.isupper() and _SENTENCE_END.search(paragraph) and plain >= 0.85 * len(paragraph))


def first_seen(texts: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Texts that are not in `seen`, after adding them to it: reference works repeat paragraphs."""
    for text in texts:
        key = normal(text)
        if key not in seen:
            seen.add(key)
            yield text


def _items(block: str) -> Iterator[list[str]]:
    """Split a block at list markers and where the indentation grows after a first line (a term, a signature)."""
    lines = [line for line in block.splitlines() if line.strip()]
    if any(_RULE.match(line) for line in lines):  # a heading with its underline, or a table
        lines = lines[:1]
    item: list[str] = []
    hanging = False
    for line in lines:
        marked = bool(_MARKER.match(line.lstrip()))
        deeper = len(item) == 1 and not hanging and _indent(line) > _indent(item[0])
        if item and (marked or deeper):
            yield item
            item = []
        if not item:
            hanging = marked
        item.append(line)
    if item:
        yield item


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _unwrap(lines: list[str]) -> str:
    text = lines[0].strip()
    for line in lines[1:]:
        broken = re.search(r"[a-z]-$", text) is not None  # "non-" / "virtual": wrapped at its hyphen
        text += line.strip() if broken else f" {line.strip()}"
    return text


def _clean(paragraph: str) -> str:
    text = _MARKER.sub("", paragraph)
    text = re.sub(r"\s*\[\d+\]", "", text)
    text = re.sub(r"\*{1,2}([^*\s](?:[^*]*[^*\s])?)\*{1,2}", r"\1", text)
    return re.sub(r"\s+", " ", text).strip()
