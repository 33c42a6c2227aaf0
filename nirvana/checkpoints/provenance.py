"""Where a checkpoint's base model came from, as far as its own files say it."""

from __future__ import annotations

import re
from pathlib import Path

from nirvana.errors import NirvanaError
from nirvana.models.lm import Source
from nirvana.models.sources import BUILT_IN, HUB_ID, Located, locate

FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\n---", re.DOTALL)
LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", re.MULTILINE)


def base_name(source: Source) -> str:
    """The name of the dense model, without the folder that it happened to lie in."""
    name = source.base or source.name
    return Path(name).name if Path(name).exists() else name


def local_base(source: Source) -> Located | None:
    """The dense model's files, or None where they are no longer there or lie on the hub."""
    name = source.base or source.name
    if name not in BUILT_IN and not Path(name).exists():
        return None
    try:
        return locate(name)
    except NirvanaError:
        return None


def licence_of(source: Source) -> str:
    """Identifier of the base model's licence, e.g. "apache-2.0"; empty where its files do not say it.

    A GGUF header, the model card beside the weights, or that in the hub's local cache; nothing is downloaded.
    """
    local = local_base(source)
    if local is not None and local.kind == "gguf":
        return str(local.config.get("license") or "")
    cards = [local.path / "README.md"] if local is not None else []
    if Path(source.name).is_dir():  # a pruned checkpoint repeats its base's licence
        cards.append(Path(source.name) / "README.md")
    name = base_name(source)
    if local is None and HUB_ID.match(name):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, "README.md")
        cards += [Path(cached)] if isinstance(cached, str) else []
    return next(filter(None, map(_licence_in, cards)), "")


def _licence_in(card: Path) -> str:
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    front = FRONT_MATTER.match(text)
    line = LICENCE.search(front[1]) if front else None
    return line[1] if line else ""
