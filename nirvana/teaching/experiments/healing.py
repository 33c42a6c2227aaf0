"""Experiment: a few seconds of distillation after pruning."""

from __future__ import annotations

from collections.abc import Sequence

from nirvana.runs.describe import percent
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row, Value
from nirvana.teaching.experiments.experiment import Experiment, Finding, is_clearly_above, kl, nats

# Tokens end the training, so that the result is the same on every machine; a public demo needs a time limit as well.
BUDGET = {
    "tokens": 16_384,
    "minutes": 5.0,
    "batch": 4,
    "length": 128,
    "learning_rate": 2e-3,
    "warmup": 3,
    "checks": 1,
}
SHARE = 0.3  # of the pruned model's KL that the training removes


def check(rows: Sequence[Row]) -> Finding:
    """Training removes at least three tenths of the KL at every sparsity, and clearly some."""
    parts, appeared = [], True
    for row in rows:
        after = kl(row)
        before = Value(after.pruned or 0.0, after.pruned_error, None, None)
        gone = 1 - after.value / before.value if before.value else 0.0
        appeared &= gone >= SHARE and is_clearly_above(before, after)
        parts.append(f"{nats(before.value)} to {nats(after.value)} at {percent(row.point.sparsity)} ({gone:.0%} less)")
    return Finding(appeared, f"Training takes KL from {'; '.join(parts)}.")


HEALING = Experiment(
    name="healing",
    title="Healing",
    look="Each pruned model (circles) is trained for a few seconds on the dense model's predictions. See how much of "
    "the loss comes back (diamonds), and how much of it does not.",
    why="The kept units were trained together with the removed ones. A short training lets them take over: "
    "distillation minimises the KL to the dense model's predictions, on calibration text. What comes back in seconds "
    "was never lost, only misaligned; what the removed units alone could compute needs far longer, or does not "
    "return.",
    grid=Grid(criteria=("nirvana",), methods=("shared",), sparsities=(0.6, 0.7), seeds=(0,), recoveries=("distill",)),
    along="sparsity",
    check=check,
    settings={"recovery": BUDGET},
)
