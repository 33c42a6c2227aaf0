"""Experiment: pruning by magnitude against random pruning."""

from __future__ import annotations

from collections.abc import Sequence

from nirvana.runs.describe import percent
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row
from nirvana.teaching.experiments.experiment import Experiment, Finding, is_clearly_above, kl, nats, times


def check(rows: Sequence[Row]) -> Finding:
    """Magnitude has a clearly higher KL than NIRVANA and than random units, at every sparsity."""
    found = {(row.point.criterion, row.point.sparsity): kl(row) for row in rows}
    parts, appeared = [], True
    for sparsity in sorted({row.point.sparsity for row in rows}):
        large, ours, drawn = (found[name, sparsity] for name in ("magnitude", "nirvana", "random"))
        appeared &= is_clearly_above(large, ours) and is_clearly_above(large, drawn)
        parts.append(
            f"At {percent(sparsity)} KL is {nats(large.value)} nats by magnitude, {nats(drawn.value)} with random "
            f"units ({times(large.value, drawn.value)}), and {nats(ours.value)} by NIRVANA."
        )
    return Finding(appeared, " ".join(parts))


MAGNITUDE = Experiment(
    name="magnitude",
    title="Why not prune by magnitude?",
    look="Small weights look expendable, and yet the units with the smallest weights are a worse choice than units "
    "drawn by lot.",
    why="A unit's effect on the output is its weights times what flows through them. Norms leave out the second "
    "factor: a unit of small weights may carry a large activation that later layers depend on. Early layers have "
    "smaller weights, so a ranking over all layers removes them first, and every later layer reads what they write. "
    "NIRVANA multiplies the weight by the gradient of the output.",
    grid=Grid(criteria=("nirvana", "magnitude", "random"), methods=("shared",), sparsities=(0.2, 0.4), seeds=(0,)),
    along="sparsity",
    check=check,
)
