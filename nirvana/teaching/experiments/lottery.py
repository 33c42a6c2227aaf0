"""Experiment: the same recipe with several calibration sets of the same text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nirvana.saliency.agreement import rank_correlation
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row
from nirvana.teaching.experiments.experiment import PERPLEXITY, Experiment, Finding, kl, nats

SURE = 4.0  # standard errors between the best and the worst of the draws, since these are chosen
MARKED = 1.1  # worst over best KL


def check(rows: Sequence[Row]) -> Finding:
    """The worst draw has a KL at least a tenth above the best one's, and four standard errors."""
    ordered = sorted(rows, key=lambda row: kl(row).value)
    best, worst = ordered[0], ordered[-1]
    low, high = kl(best), kl(worst)
    gap = high.value - low.value
    noise = ((low.error or 0.0) ** 2 + (high.error or 0.0) ** 2) ** 0.5
    rank = rank_correlation(
        np.array([kl(row).value for row in rows]), np.array([row.values[PERPLEXITY].value for row in rows])
    )
    return Finding(
        gap > SURE * noise and high.value >= MARKED * low.value,
        f"KL is {nats(low.value)} nats with the best of {len(rows)} draws (seed {best.point.seed}) and "
        f"{nats(high.value)} with the worst (seed {worst.point.seed}), {high.value / low.value - 1:.0%} more; the "
        f"standard error of their difference is {nats(noise)}. Spearman correlation of KL and perplexity: {rank:.2f}.",
    )


LOTTERY = Experiment(
    name="lottery",
    title="The calibration lottery",
    look="Text, criterion and sparsity are the same; only the draw of two short windows differs. The points differ by "
    "far more than their error bars.",
    why="The scores are gradients on the calibration set. A small set represents the text badly, and each draw in its "
    "own way, so each keeps other units. NIRVANA draws several sets, prunes with each, and keeps the one whose KL from "
    "the dense model is lowest: that costs one pruning a candidate. A larger set makes the draws more alike.",
    grid=Grid(criteria=("nirvana",), methods=("shared",), sparsities=(0.4,), seeds=tuple(range(8))),
    along="seed",
    check=check,
    settings={"calibration": {"samples": 2, "length": 128}},
)
