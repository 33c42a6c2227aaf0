"""Experiment: removing the budget from attention alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nirvana.models import tiny
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row
from nirvana.teaching.experiments.experiment import PERPLEXITY, Experiment, Finding, is_clearly_above, kl, nats, times

TWICE = 2.0  # KL of attention alone over that of each other split
BREAKS = 1.5  # its perplexity over the dense model's


def check(rows: Sequence[Row]) -> Finding:
    """Attention alone has at least twice the KL of every other split, and half as much perplexity again as dense."""
    found = {row.point.gamma: row for row in rows}
    alone = kl(found[0.0])
    others = [kl(row) for gamma, row in found.items() if gamma > 0]
    appeared = all(is_clearly_above(alone, each) and alone.value >= TWICE * each.value for each in others)
    perplexity = found[0.0].values[PERPLEXITY]
    dense = perplexity.dense or math.nan
    appeared = appeared and perplexity.value >= BREAKS * dense
    equal, mlp = kl(found[1.0]), kl(found[math.inf])
    return Finding(
        appeared,
        f"Taken from attention alone, the same weights cost {nats(alone.value)} nats: "
        f"{times(alone.value, equal.value)} as much as at equal rates ({nats(equal.value)}); from the MLP alone they "
        f"cost {nats(mlp.value)}. Perplexity goes from {dense:,.4g} to {perplexity.value:,.4g} "
        f"({perplexity.value / dense:,.3g} times).",
    )


ATTENTION = Experiment(
    name="attention",
    title="Attention only breaks everything",
    look="Each point removes 10 % of the attention and MLP weights. Where all of them come from attention (gamma 0), "
    "the model breaks; the larger the MLP's part, the less is lost.",
    why="Attention has a small part of the prunable weights, so 10 % of all weights is a large share of the few KV "
    "groups. Each moves information between tokens in a way that no other part can replace, and no neuron "
    "can. The MLP has many neurons with overlapping functions. That is why gamma is above 1.",
    grid=Grid(
        criteria=("nirvana",),
        methods=("shared",),
        sparsities=(0.1,),
        seeds=(0,),
        gammas=(0.0, 1.0, 3.36, math.inf),
    ),
    along="gamma",
    check=check,
    models=(tiny.QUICK, "smollm2-135m"),
)
