"""Made-up rows of a sweep, for what shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nirvana.studies.sweep_grid import Grid, Point
from nirvana.studies.sweep_rows import Pace, Row, Value

DENSE = 20.0
PERPLEXITY, KL, PAIRS = "perplexity, novels", "KL divergence", "accuracy, minimal-pairs"
LEFT = {"nirvana": 0.2}  # share of the loss of quality that is left after recovery; 0.5 with other criteria
QUALITY = {"nirvana": 1.5, "taylor": 1.3, "random": 3.0, "magnitude": 50.0}


def make_row(point: Point, *, factor: float | None = None, miss: float = 0.001, speed: bool = False) -> Row:
    """A row whose numbers follow from its point: worse with sparsity, by criterion, a little by seed."""
    times = QUALITY.get(point.criterion, 2.0) if factor is None else factor
    times = 1 + (times - 1) * point.sparsity / 0.2 * (1.1 if point.method == "published" else 1.0)
    times *= 1 + 0.01 * ((point.seed * 7 + len(point.criterion)) % 3)
    before = times if point.trained else None
    times = times if before is None else 1 + (times - 1) * LEFT.get(point.criterion, 0.5)
    left = 1 - point.sparsity
    sizes = {"parameters": 1000 * left, "dense parameters": 1000, "bytes": 4000 * left, "dense bytes": 4000}
    values = {
        PERPLEXITY: Value(DENSE * times, 0.4, DENSE, 0.3, before and DENSE * before),
        KL: Value(times - 1 + 0.01, 0.01, None, None, before and before - 1 + 0.01),
        PAIRS: Value(max(0.5, 0.9 - 0.1 * times), 0.02, 0.85, 0.02),
    }
    pace = {name: Pace(10 / left, 10.0, 1 / left, 0.9 / left, 1.1 / left) for name in ("prefill", "decode")}
    run_id = f"run{point.seed}{point.criterion[:4]}{point.sparsity}{point.method}{point.trained}"
    return Row(
        point, run_id, "f" * 64, "ab" * 32,
        seconds=2.0, sparsity=point.sparsity - miss, sizes=sizes, values=values, speed=pace if speed else {},
    )  # fmt: skip


def make_rows(grid: Grid | None = None, make: Callable[[Point], Row] = make_row) -> list[Row]:
    return [make(point) for point in (grid or Grid()).points()]


def without(rows: Iterable[Row], **choice: object) -> list[Row]:
    """Rows but those whose point has these choices."""
    return [row for row in rows if not all(getattr(row.point, name) == value for name, value in choice.items())]


def grid_of(*lists: Any, **named: Any) -> Grid:
    """A grid by its fields in order: criteria, methods, sparsities, seeds ..."""
    return Grid(**dict(zip(Grid.model_fields, lists, strict=False)), **named)
