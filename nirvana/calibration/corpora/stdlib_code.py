"""The source of Python's standard library: code instead of prose."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from nirvana.calibration.corpora.corpus import Corpus, CorpusInfo
from nirvana.errors import CorpusError

INFO = CorpusInfo(
    name="stdlib-code",
    title="Python standard library source",
    description="Source code of the modules that come with Python. Code instead of prose.",
    offline=True,
)
PACKAGES: tuple[str, ...] = (
    "asyncio",
    "collections",
    "concurrent",
    "email",
    "html",
    "http",
    "importlib",
    "json",
    "logging",
)
PACKAGES += ("multiprocessing", "sqlite3", "tomllib", "unittest", "urllib", "wsgiref", "xml", "zoneinfo")
SIZES = (1_000, 60_000)  # characters: excludes stubs, and files large enough to fill a split


def load() -> Corpus:
    """Raises: CorpusError: this Python was installed without the source of its library."""
    documents = list(_sources(Path(sysconfig.get_path("stdlib"))))
    if not documents:
        raise CorpusError(
            "This Python has no source files of its standard library.", "Choose the corpus python-docs instead."
        )
    return Corpus.from_documents(documents, name=INFO.name, description=INFO.description, kind="built-in")


def _sources(folder: Path) -> Iterator[str]:
    """Public modules and the packages of `PACKAGES`; not the tables of codecs, IDLE or tests."""
    files = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith(("_", "pydoc_data"))]
    for package in PACKAGES:
        files += sorted((folder / package).rglob("*.py"))
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError):  # a few are in other encodings
            continue
        if SIZES[0] <= len(text) <= SIZES[1]:
            yield text
