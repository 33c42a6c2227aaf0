"""Growth of the time of a scoring pass with layers, width and tokens: slopes of log seconds against log size.

    python -m benchmarks.scaling

Each size is a random Llama of its own, scored in micro-batches.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

import nirvana as nv
from benchmarks.streaming import write_checkpoint
from benchmarks.tables import markdown

LAYERS, HIDDEN, TOKENS, VOCABULARY = 8, 384, 2048, 4096
LENGTH, REPEATS = 128, 3
GRID = {"layers": (2, 4, 8, 16), "hidden size": (192, 384, 768, 1536), "tokens": (512, 1024, 2048, 4096)}


def sizes(dimension: str, value: int) -> tuple[int, int, int]:
    """Layers, hidden size and tokens, where one differs from the usual."""
    return (
        value if dimension == "layers" else LAYERS,
        value if dimension == "hidden size" else HIDDEN,
        value if dimension == "tokens" else TOKENS,
    )


def seconds(layers: int, hidden: int, tokens: int) -> float:
    """Median time of a scoring pass over a random Llama of that size."""
    with TemporaryDirectory() as place:
        write_checkpoint(Path(place) / "model", layers, hidden, 4 * hidden, VOCABULARY)
        lm = nv.load_model(Path(place) / "model", device="cpu", dtype="float32")
        windows = nv.CalibrationSet(np.random.default_rng(0).integers(3, 250, (tokens // LENGTH, LENGTH)))
        found = []
        for _ in range(REPEATS + 1):  # the first one sets up kernels
            start = time.perf_counter()
            nv.score(lm, windows, strategy="micro-batches")
            found.append(time.perf_counter() - start)
        return median(found[1:])


def lines() -> Iterator[list[str]]:
    """One line a dimension."""
    for dimension, values in GRID.items():
        took = [seconds(*sizes(dimension, value)) for value in values]
        slope = np.polyfit(np.log(values), np.log(took), 1)[0]
        shown = ", ".join(f"{value:,}: {each:.2f}" for value, each in zip(values, took, strict=True))
        yield [dimension, shown, f"{slope:.2f}"]


def table() -> str:
    return markdown(["dimension", "size: seconds", "slope"], list(lines()))


if __name__ == "__main__":
    print(table())
