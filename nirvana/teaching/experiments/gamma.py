"""Experiment: the ratio of the MLP's pruning rate to attention's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row
from nirvana.teaching.experiments.experiment import Experiment, Finding, is_clearly_above, kl, nats, times

EQUAL, PUBLISHED = 1.0, 3.36
MARKED = 2.0  # KL at equal rates over KL at the published gamma, from which gamma matters


def check(rows: Sequence[Row]) -> Finding:
    """Equal rates have at least twice the KL of the published gamma, and clearly more."""
    found = {row.point.gamma: kl(row) for row in rows}
    equal, published = found[EQUAL], found[PUBLISHED]
    best = min(found, key=lambda gamma: found[gamma].value)
    alike = [gamma for gamma in found if found[gamma].value == found[max(found)].value]
    jumps = ""
    if len(alike) > 1:
        lowest = min(alike)
        jumps = f" The last {len(alike)} points, from gamma {lowest:g}, have the same KL."
    appeared = is_clearly_above(equal, published) and equal.value >= MARKED * published.value
    name = "∞ (MLP only)" if math.isinf(best) else f"{best:g}"
    return Finding(
        appeared,
        f"KL is {nats(equal.value)} nats at equal rates (gamma 1) and {nats(published.value)} at the paper's 3.36: "
        f"{times(equal.value, published.value)}. The lowest is {nats(found[best].value)}, at gamma {name}.{jumps}",
    )


GAMMA = Experiment(
    name="gamma",
    title="What gamma does",
    look="All points remove as many weights; gamma decides how many are attention's. The curve falls steeply while "
    "attention pays, and is nearly flat once it is spared.",
    why="gamma is the MLP's pruning rate over attention's. KV groups are few and large, so removing one takes much "
    "away at once; neurons are many, and hundreds of them matter little. KV groups are removed whole, so gamma acts in "
    "jumps: neighbouring values give the same plan.",
    grid=Grid(
        criteria=("nirvana",),
        methods=("shared",),
        sparsities=(0.4,),
        seeds=(0,),
        gammas=(0.5, EQUAL, 2.0, PUBLISHED, 6.0, 20.0, math.inf),
    ),
    along="gamma",
    check=check,
)
