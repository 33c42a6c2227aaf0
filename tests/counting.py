"""Counts how often expensive calls are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import pytest


def count_calls(monkeypatch: pytest.MonkeyPatch, watched: Mapping[ModuleType, Sequence[str]]) -> Counter[str]:
    """A counter by name of the calls to functions of modules, which go on as before."""
    counter: Counter[str] = Counter()

    def watch(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            counter[name] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(module, name, counted)

    for module, names in watched.items():
        for name in names:
            watch(module, name)
    return counter
