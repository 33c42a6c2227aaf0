"""The table of the quality benchmark: the right rows in the right cells."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.quality_table import between_marks, protocol, table

COMMON = {
    "model": "m",
    "window": 512,
    "evaluate_in": "float32",
    "samples": 4,
    "length": 8,
    "calibrate": "a.txt",
    "gamma": 4.0,
    "statistics_samples": 6,
    "versions": {"torch": "2"},
}


def row(criterion: str, method: str, compensation: str, value: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    point = {"seed": seed, "criterion": criterion, "method": method, "compensation": compensation, "sparsity": 0.2}
    measured = {"sparsity": 0.199, "perplexity": {"a": [value, 1.0, 512], "b": [2 * value, 1.0, 512]}}
    return {"point": point, "date": "2026-01-02", **measured, **more}


ROWS: list[dict[str, Any]] = [
    {"point": None, "perplexity": {"a": [10.0, 1.0, 512], "b": [20.0, 1.0, 512]}, "date": "2026-01-01"},
    row("nirvana", "published", "none", 30.0),
    row("nirvana", "published", "none", 34.0, seed=1),
    row("nirvana", "shared", "least_squares", 15.0),
    row("nirvana", "shared", "least_squares", 15.0, seed=1),
    row("taylor", "published", "none", 28.0),
    row("taylor", "published", "none", 29.0, seed=1),
    row("taylor", "shared", "none", 24.0),
    row("taylor", "shared", "none", 24.0, seed=1),
    row("taylor", "shared", "least_squares", 16.0),
    row("taylor", "shared", "least_squares", 16.0, seed=1),
]


def test_cells_are_means_over_seeds_and_the_lowest_is_bold() -> None:
    lines = table(ROWS).splitlines()
    assert lines[0] == "| criterion | 20% as published | 20% same | 20% same, least squares |"
    assert lines[2] == "| dense | 10.0 / 20.0 | | |"
    assert lines[3] == "| NIRVANA | 32.0 / 64.0 | 32.0 / 64.0 | **15.0 / 30.0** |"  # published is the same allocation
    assert lines[4] == "| Taylor (LLM-Pruner) | **28.5 / 57.0** | **24.0 / 48.0** | 16.0 / 32.0 |"


def test_a_seed_that_failed_leaves_the_cell_out() -> None:
    failed = row("taylor", "shared", "none", 0.0, seed=2)
    del failed["perplexity"], failed["sparsity"]
    lines = table([*ROWS, failed | {"failure": "too much"}]).splitlines()
    assert lines[4].split(" | ")[2] == "out of reach"


def test_the_protocol_says_how() -> None:
    text = protocol(ROWS, COMMON)
    assert "a / b (512 / 512 tokens, windows of 512, float32), mean of seeds 0, 1" in text
    assert "within 0.10% of those named" in text
    assert "standard deviation is 0.0% in the middle and 8.8% at most" in text  # 30 and 34
    assert "2026-01-01 to 2026-01-02, torch 2." in text


def test_only_what_is_between_the_marks_changes() -> None:
    document = "before\n<!-- quality -->\nold\n<!-- /quality -->\nafter\n"
    assert between_marks(document, "quality", "new\n") == document.replace("old", "new")
    with pytest.raises(SystemExit, match="no marks"):
        between_marks(document, "other", "new\n")
