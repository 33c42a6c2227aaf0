"""Text files and uploaded texts as corpora."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nirvana.calibration.corpora.corpus import Corpus, divide
from nirvana.calibration.corpora.records import Document, read_records
from nirvana.errors import CorpusError
from nirvana.files import content_hash, data_folder, decode, read_file, write_bytes

SUFFIXES = (".txt", ".jsonl", ".json")
UPLOAD = "upload:"
LARGEST = 200_000_000  # bytes
SMALLEST = 5_000  # bytes of an upload: some 200 tokens in the smallest split, enough for probes of 64 but not of 512

_SAFE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,79}$")


def load_file(path: Path, *, name: str = "", kind: str = "file") -> Corpus:
    """A .txt file, cut into sections at blank lines, or a .jsonl or .json file of records (see `read_records`).

    Not read by `datasets`, which keeps a second copy of every file and does not name a malformed line.

    Raises:
        CorpusError: the file is missing, unreadable, not UTF-8, malformed, empty or too short.
    """
    name = name or path.name
    if path.suffix.lower() not in SUFFIXES:
        raise CorpusError(f"{name} is not a .txt, .jsonl or .json file.", "Save its text as one of these.")
    try:
        if path.stat().st_size > LARGEST:
            raise CorpusError(
                f"{name} is larger than {LARGEST // 1_000_000} MB.", "Cut it: a few MB of text are enough."
            )
        content = read_file(path)
    except OSError as error:
        raise CorpusError(f"{name} cannot be read: {error.strerror or error}.", "Check the path.") from error
    documents = parse(content, name=name, suffix=path.suffix.lower())
    description = (
        "Text of your own, divided into sections." if path.suffix.lower() == ".txt" else "Records of your own."
    )
    return _corpus(documents, name=name, description=description, kind=kind)


def parse(content: bytes, *, name: str, suffix: str) -> list[Document]:
    """Documents of a text (its sections) or, where `suffix` is not ".txt", of its JSON records.

    Raises:
        CorpusError: not UTF-8, a record is malformed, or there is only white space.
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
    if suffix != ".txt":
        return read_records(text, name, lines=suffix == ".jsonl")
    return [Document(section) for section in divide(text)]


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
    documents = parse(raw, name=stem + suffix, suffix=suffix)
    length = sum(len(document.text.encode()) for document in documents)
    if length < SMALLEST:
        raise CorpusError(
            f"The text has {length:,} bytes: too few to draw calibration, probe and evaluation windows from.",
            f"Give {SMALLEST:,} or more, which is about two pages.",
        )
    _corpus(documents, name=stem + suffix, kind="upload")
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


def _corpus(documents: Sequence[Document], *, name: str, kind: str, description: str = "") -> Corpus:
    texts = [document.text for document in documents]
    corpus = Corpus.from_documents(texts, name=name, description=description, kind=kind)
    prompts = dict(documents)
    if not any(prompts.values()):
        return corpus
    return replace(
        corpus, prompts={split: tuple(prompts[text] for text in texts) for split, texts in corpus.splits.items()}
    )


def _safe_stem(name: str) -> str:
    stem = re.split(r"[/\\]", name)[-1]
    stem = stem.rsplit(".", 1)[0] if Path(stem).suffix.lower() in SUFFIXES else stem
    stem = re.sub(r"[^A-Za-z0-9 _-]+", "-", stem).strip(" -_")[:48].strip(" -_")
    return stem or "text"


def _uploads() -> Path:
    return data_folder() / "uploads"
