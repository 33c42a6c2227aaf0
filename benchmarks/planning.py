"""Seconds to allocate a budget over a model of the shape of Llama-3.3-70B, from random scores.

    python -m benchmarks.planning

Each budget is another one, so that nothing is cached.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np

import nirvana as nv
from benchmarks.shapes import PUBLISHED
from benchmarks.tables import markdown
from nirvana.models.inspection import describe_config

REPEATS = 15
AIM = 0.05  # seconds


def scores(seed: int = 0) -> nv.Saliency:
    """Lognormal scores."""
    draw, shape = np.random.default_rng(seed), describe_config(PUBLISHED["Llama-3.3-70B"]).layout
    found = {site: draw.lognormal(size=place.units).astype(np.float32) for site, place in shape.items()}
    return nv.Saliency(found, shape, "nirvana")


def table() -> str:
    saliency, rows = scores(), []
    for named in ({}, {"uniform": True}, {"protected": (0, 1, 78, 79)}, {"multiple_of": 64}):
        seconds = []
        for repeat in range(REPEATS + 1):
            start = time.perf_counter()
            nv.allocate(saliency, sparsity=0.2 + 0.02 * repeat, gamma=3.36, **named)  # another budget each time
            seconds.append(time.perf_counter() - start)
        words = ", ".join(f"{name} {value}" for name, value in named.items()).replace("_", " ") or "the default"
        middle = median(seconds[1:])
        times = [f"{1000 * middle:.0f} ms", f"{1000 * max(seconds[1:]):.0f} ms"]
        rows.append([words, *times, "yes" if middle < AIM else "no"])
    return markdown(["allocation", "median of 15 budgets", "slowest", f"below {1000 * AIM:.0f} ms"], rows)


if __name__ == "__main__":
    print(table())
