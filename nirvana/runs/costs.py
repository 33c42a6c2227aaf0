"""Cost tables in the step cache: measured once for a device and a shape of model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.costs import PHASES, CostTable
from nirvana.progress import ProgressCallback
from nirvana.runs.recipe import AllocationChoice
from nirvana.runs.run import Run
from nirvana.runs.step_cache import cache_key, through_cache
from nirvana.schema import Distinct, Schema, option

if TYPE_CHECKING:
    from nirvana.models.lm import LM


class CostRequest(Schema):
    """Phases to measure, and the size of the texts."""

    phases: Distinct[str] = option(PHASES, "--phase", "phase to measure; may be repeated", choices=lambda: PHASES)
    batch: int = option(1, "--batch", "texts at once", ge=1, le=256)
    length: int = option(128, "--length", "tokens of the prompt, or in the cache", ge=1, le=32_768)
    repeats: int = option(9, "--repeats", "timings of each size", ge=1, le=100)


def cached_costs(
    lm: LM, *, phase: str, batch: int, length: int, repeats: int = 0, progress: ProgressCallback | None = None
) -> CostTable:
    """`nirvana.measure_costs` where the cache lacks its result. Weights do not count, only their shapes.

    Args:
        repeats: 0 for the usual number.

    Raises:
        ModelError: see `measure_costs`.
    """
    from nirvana.evaluation.costs import REPEATS, measure_costs, placement

    protocol: dict[str, Any] = {"phase": phase, "batch": batch, "length": length, "repeats": repeats or REPEATS}
    shape = {"layout": lm.layout.to_json(), "geometry": lm.family.geometry(lm.settings)}
    key = cache_key("costs", **protocol, **shape, **placement(lm))
    table, _ = through_cache(
        key, CostTable.from_bytes, CostTable.to_bytes, lambda: measure_costs(lm, **protocol, progress=progress)
    )
    return table


def budget_costs(lm: LM, choice: AllocationChoice, progress: ProgressCallback | None = None) -> CostTable | None:
    """The cost table of an allocation's budget; None for parameters, and for bytes of one dtype.

    Raises:
        ModelError: see `nirvana.measure_costs`.
    """
    if choice.budget == "latency":
        return cached_costs(lm, **choice.cost_protocol, progress=progress)
    from nirvana.evaluation.costs import mixed_bytes

    return mixed_bytes(lm) if choice.budget == "bytes" else None


def known_costs(run: Run, choice: AllocationChoice) -> CostTable | None:
    """As `budget_costs`, from the results of a run; None also where they were not measured for it."""
    if choice.budget == "bytes":
        card = run.model()
        return card.byte_costs if card is not None else None
    tables = run.costs() if choice.budget == "latency" else None
    return tables.find(**choice.cost_protocol) if tables is not None else None
