"""Origin and licence of a checkpoint's base model, from its own files."""

from __future__ import annotations

import re
from pathlib import Path

from nirvana.errors import NirvanaError
from nirvana.files import read_text
from nirvana.models.gguf_files import read_gguf_config
from nirvana.models.lm import Source
from nirvana.models.sources import BUILT_IN, locate

FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\n---", re.DOTALL)
LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", re.MULTILINE)


def base_name(source: Source) -> str:
    """The name of the dense model, without its folder."""
    return source.base or (source.path.name if source.path and source.name == str(source.path) else source.name)


def base_gguf(source: Source) -> Path | None:
    """The GGUF file of the dense model, if it still exists."""
    path = source.path
    if source.base in BUILT_IN:
        try:
            path = locate(source.base).path
        except NirvanaError:  # its package is not installed here
            return None
    return path if path is not None and path.suffix == ".gguf" and path.is_file() else None


def licence_of(source: Source) -> str:
    """Identifier of the base model's licence, e.g. "apache-2.0"; empty where its files do not name one. From a GGUF
    header or the model card beside the weights; a pruned checkpoint's card repeats that of its base.
    """
    gguf = base_gguf(source)
    if gguf is not None:
        return str(read_gguf_config(gguf)[0].get("license") or "")
    return "" if source.path is None else _licence_in(source.path / "README.md")


def _licence_in(card: Path) -> str:
    try:
        text = read_text(card)
    except (OSError, UnicodeDecodeError):
        return ""
    front = FRONT_MATTER.match(text)
    line = LICENCE.search(front[1]) if front else None
    return line[1] if line else ""
