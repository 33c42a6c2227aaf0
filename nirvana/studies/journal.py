"""The journal of a study: JSON lines in the folder of its run, readable while the study is running.

A header line records a request and the settings that its rows depend on; row lines follow, each under the key of its
settings. The file is append-only, so rows of earlier requests stay. A line that is incomplete or cannot be read is
skipped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nirvana.files import append_line, json_hash, parse_json, read_text, strict

VERSION = 2
Row = TypeVar("Row")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Header:
    """A request of the study, and the settings that its rows depend on besides their point, as JSON values."""

    request: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return json_hash(self.settings)[:16]


class Journal:
    """One file of headers and rows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def latest(self) -> Header | None:
        """The last request, or None."""
        headers = [line for line in self._lines() if isinstance(line, Header)]
        return headers[-1] if headers else None

    def rows(self, key: str | None = None) -> list[dict[str, Any]]:
        """Rows in order of completion, of one key or all."""
        return [
            row for found, row in (line for line in self._lines() if isinstance(line, tuple)) if key in (None, found)
        ]

    def last(self, read: Callable[[dict[str, Any]], Row]) -> tuple[dict[str, Any] | None, list[Row]]:
        """Settings of the last request, and its rows so far as `read` parses them; None without a request."""
        header = self.latest()
        if header is None:
            return None, []
        rows = []
        for data in self.rows(header.key):
            try:
                rows.append(read(data))
            except (ValueError, KeyError, TypeError) as error:
                log.warning("A row of %s cannot be read: %s", self.path, error)
        return header.settings, rows

    def begin(self, header: Header) -> None:
        """Record a request, unless it equals the latest.

        Raises:
            NirvanaError: the disk is full or the folder cannot be written.
        """
        if self.latest() != header:
            record = {"version": VERSION, "key": header.key, "request": header.request, "settings": header.settings}
            self._append(record)

    def append(self, key: str, row: dict[str, Any]) -> None:
        """Record a finished row; raises like `begin`."""
        self._append({"key": key, "row": row})

    def _append(self, record: dict[str, Any]) -> None:
        append_line(self.path, json.dumps(record, ensure_ascii=False))

    def _lines(self) -> Iterator[Header | tuple[str, dict[str, Any]]]:
        try:
            lines = read_text(self.path).split("\n")
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read: %s", self.path, error)
            return
        key = ""
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                found = _read(parse_json(line), key)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("Line %d of %s is skipped: %s", number, self.path, error)
                continue
            for each in found:
                key = each.key if isinstance(each, Header) else key
                yield each


def _read(data: dict[str, Any], key: str) -> list[Header | tuple[str, dict[str, Any]]]:
    """Content of a line; lines of version 1 have no key and belong to the preceding header."""
    if "row" in data:
        return [(str(data["key"]), dict(data["row"]))]
    if "request" in data:
        return [Header(dict(data["request"]), dict(data["settings"]))]
    if "settings" in data:  # a search of version 1
        settings = dict(data["settings"])
        names = ("criteria", "sparsity", "seed")
        return [Header({"corpora": [*settings["corpora"]], **{name: settings[name] for name in names}}, settings)]
    if "protocol" in data:  # a matrix of version 1, whose header held the dense model's measurements
        header = Header({"corpora": data["texts"]}, {"texts": data["texts"], "protocol": data["protocol"]})
        dense = {"calibration": "", "seed": 0, "sparsity": 0.0, "kl": [], "perplexity": data["dense"]}
        return [header, (header.key, dense)]
    return [(key, dict(data))]


def as_read_back(value: Any) -> Any:
    """A JSON value as read from the journal: tuples as lists, keys and non-finite numbers as text."""
    return json.loads(json.dumps(strict(value)))
