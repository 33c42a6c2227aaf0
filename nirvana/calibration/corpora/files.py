"""Text files and uploaded texts as corpora."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nirvana.calibration.corpora.corpus import Corpus, divide
from nirvana.errors import CorpusError
from nirvana.files import content_hash, data_folder, decode, parse_json, read_file, write_bytes

SUFFIXES = (".txt", ".jsonl")
UPLOAD = "upload:"
LARGEST = 200_000_000  # bytes
SMALLEST = 5_000  # bytes of an upload: some 200 tokens in the smallest split, from which 128 probes of 64 can be drawn

_SAFE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,79}$")


def load_file(path: Path, *, name: str = "", kind: str = "file") -> Corpus:
    """A .txt file, cut into sections at blank lines, or a .jsonl file of records with a `text` field.

    Not read by `datasets`, which keeps a second copy of every file and does not name a malformed line.

    Raises:
        CorpusError: the file is missing, unreadable, not UTF-8, malformed, empty or too short.
    """
    name = name or path.name
    if path.suffix.lower() not in SUFFIXES:
        raise CorpusError(f"{name} is neither a .txt nor a .jsonl file.", "Save its text as one of these.")
    try:
        if path.stat().st_size > LARGEST:
            raise CorpusError(
                f"{name} is larger than {LARGEST // 1_000_000} MB.", "Cut it: a few MB of text are enough."
            )
        content = read_file(path)
    except OSError as error:
        raise CorpusError(f"{name} cannot be read: {error.strerror or error}.", "Check the path.") from error
    documents = parse(content, name=name, lines=path.suffix.lower() == ".jsonl")
    description = (
        "Text of your own, divided into sections." if path.suffix.lower() == ".txt" else "Records of your own."
    )
    return Corpus.from_documents(documents, name=name, description=description, kind=kind)


def parse(content: bytes, *, name: str, lines: bool) -> list[str]:
    """Documents of a text (its sections), or of one JSON record a line where `lines`.

    Raises:
        CorpusError: not UTF-8, a line is not a record with a text, or there is only white space.
    """
    try:
        text = decode(content)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{name} is not UTF-8 text: byte {error.start} cannot be read.",
            "Save it as UTF-8 plain text; .docx, .pdf and archives have to be exported first.",
        ) from error
    if not text.strip():
        raise CorpusError(f"{name} has no text.", "Choose a file with some pages of text.")
    if lines:
        return list(_records(text, name))
    return divide(text)


def save_upload(name: str, content: str | bytes) -> str:
    """Save a pasted or uploaded text and return its corpus name, e.g. `upload:notes.txt`.

    `name` is reduced to safe characters; another text of that name is never overwritten.

    Raises:
        CorpusError: the text cannot be a corpus (see `load_file`) or is shorter than `SMALLEST`; nothing is saved.
        NirvanaError: the disk is full or cannot be written.
    """
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content  # `parse` rejects these
    stem, suffix = _safe_stem(name), Path(name).suffix.lower()
    suffix = suffix if suffix in SUFFIXES else ".txt"
    if len(raw) > LARGEST:
        raise CorpusError(f"The text is larger than {LARGEST // 1_000_000} MB.", "Cut it: a few MB are enough.")
    documents = parse(raw, name=stem + suffix, lines=suffix == ".jsonl")
    length = sum(len(document.encode()) for document in documents)
    if length < SMALLEST:
        raise CorpusError(
            f"The text has {length:,} bytes: too few to draw calibration, probe and evaluation windows from.",
            f"Give {SMALLEST:,} or more, which is about two pages.",
        )
    Corpus.from_documents(documents, name=stem + suffix, kind="upload")
    path = _uploads() / (stem + suffix)
    if path.exists() and (not path.is_file() or read_file(path) != raw):
        path = path.with_name(f"{stem}-{content_hash(raw)[:8]}{suffix}")
    write_bytes(path, raw)
    return UPLOAD + path.name


def load_upload(name: str) -> Corpus:
    """A text saved by `save_upload`, by the name it returned.

    Raises:
        CorpusError: there is none of that name.
    """
    file = name.removeprefix(UPLOAD)
    path = _uploads() / file
    if not _SAFE.match(file) or not path.is_file():
        raise CorpusError(f"There is no uploaded text {file!r}.", "Upload it again, or choose another corpus.")
    return load_file(path, name=name, kind="upload")


def uploads() -> list[str]:
    """Corpus names of the saved texts, newest first."""
    files = [path for path in _uploads().glob("*") if _SAFE.match(path.name) and path.suffix in SUFFIXES]
    return [UPLOAD + path.name for path in sorted(files, key=lambda path: -path.stat().st_mtime)]


def _records(text: str, name: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would cut inside strings, at U+2028
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            raise CorpusError(
                f"Line {number} of {name} is not JSON: {error}.",
                'Each line should be a record such as {"text": "..."}.',
            ) from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise CorpusError(
                f"Line {number} of {name} has no text field.", 'Each line should be a record such as {"text": "..."}.'
            )
        try:
            record["text"].encode()
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"Line {number} of {name} has half of a surrogate pair, which is no character.", "Correct the line."
            ) from error
        yield record["text"]


def _safe_stem(name: str) -> str:
    stem = re.split(r"[/\\]", name)[-1]
    stem = stem.rsplit(".", 1)[0] if Path(stem).suffix.lower() in SUFFIXES else stem
    stem = re.sub(r"[^A-Za-z0-9 _-]+", "-", stem).strip(" -_")[:48].strip(" -_")
    return stem or "text"


def _uploads() -> Path:
    return data_folder() / "uploads"
