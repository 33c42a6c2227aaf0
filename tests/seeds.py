"""Differential tests over many random cases: one test case for a batch of seeds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

BATCH = 50


def over_seeds(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: run a test for each `seed` below `count`, a batch of seeds per case; a failure names its seed."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*, seed: range, **fixtures: Any) -> None:
            for one in seed:
                try:
                    test(seed=one, **fixtures)
                except BaseException as error:  # `pytest.raises` fails with one
                    error.add_note(f"seed {one}")
                    raise

        batches = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
        cases: Any = pytest.mark.parametrize("seed", batches, ids=[f"{batch[0]}-{batch[-1]}" for batch in batches])(run)
        decorated: Callable[..., None] = cases
        return decorated

    return decorate
