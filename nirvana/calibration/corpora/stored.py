"""Cache of corpora that take time to collect."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from nirvana.calibration.corpora.corpus import SPLITS
from nirvana.errors import NirvanaError
from nirvana.files import cache_folder, json_hash, read_json, write_json

Splits = dict[str, tuple[str, ...]]


def stored(key: dict[str, Any], build: Callable[[], Splits]) -> Splits:
    """The result of `build`, read from the cache where it was built for the same `key` before. `key` holds everything
    that the text depends on, such as library versions and limits.
    """
    path = cache_folder() / "corpora" / f"{json_hash(key)[:32]}.json"
    try:
        content = read_json(path)
        return {name: tuple(content["splits"][name]) for name in SPLITS}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or damaged
    splits = build()
    with contextlib.suppress(NirvanaError):  # on a full or read-only disk the next call builds it again
        write_json(path, {"key": key, "splits": splits})
    return splits
