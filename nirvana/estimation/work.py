"""Floating-point operations and seconds of each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from nirvana.estimation.results import MEASURED, PREDICTED
from nirvana.evaluation.flops import window_flops
from nirvana.models.sizes import ModelSizes
from nirvana.runs.pace import FORWARD, kind_of_work, tokens_read
from nirvana.runs.recipe import Recipe
from nirvana.saliency.criteria import find_criterion

BACKWARD = 2  # forward passes that a backward pass costs


class Speed(NamedTuple):
    """Speed of a device: `flops` a second in matrix products, and `bandwidth`, bytes a second of its memory.

    `disk` is in bytes a second too; 0 where reading the weights should not be counted.
    """

    flops: float
    bandwidth: float
    disk: float = 0.0

    def seconds(self, flops: float, moved: float, read: float = 0.0) -> float:
        """The longer of computing and moving bytes through memory, and the time to `read` bytes from disk."""
        return max(flops / self.flops, moved / self.bandwidth) + (read / self.disk if self.disk else 0.0)


class Work(NamedTuple):
    """`flops` of a step, the bytes of weights it `moved` through the device, and the bytes it `read` from disk."""

    flops: float = 0.0
    moved: float = 0.0
    read: float = 0.0

    def __add__(self, more: object) -> Work:
        assert isinstance(more, Work)
        return Work(*(mine + other for mine, other in zip(self, more, strict=True)))


def reading(sizes: ModelSizes, windows: int, length: int, batch: int, *, passes: float = 1.0) -> Work:
    """Forward passes over windows, `batch` tokens at a time; a pass with gradients counts 3."""
    batches = -(-windows * length // max(batch, 1))
    from_disk = sizes.layout.prunable * sizes.item if sizes.lazy else 0  # each block is read once for all batches
    return Work(
        passes * windows * window_flops(sizes.layout, sizes.geometry, length),
        passes * batches * sizes.weight_bytes,
        (2 if passes > 1 else 1) * from_disk,
    )


def moments(sizes: ModelSizes, tokens: int) -> Work:
    """The products of second moments."""
    return Work(sum(2.0 * tokens * width**2 for width in sizes.input_widths.values()))


def removing(sizes: ModelSizes) -> Work:
    """Removal of units one by one: two inverses, then three updates of a matrix a unit."""
    return Work(sum(6.0 * width**3 for width in sizes.input_widths.values()))


def solving(sizes: ModelSizes, sparsity: float) -> Work:
    """Least squares of every output projection."""
    total = 0.0
    for width in sizes.input_widths.values():
        kept = width * (1 - sparsity)
        total += kept**3 / 3 + 2 * sizes.hidden * kept * (width - kept) + 2 * sizes.hidden * kept**2
    return Work(total)


def gradient_passes(criterion: str, strategy: str) -> float:
    """Forward passes that one pass of a criterion costs."""
    reads = find_criterion(criterion).reads
    if reads != "gradients":
        return 0.0 if reads == "nothing" else 1.0
    return 1 + BACKWARD + (1 if strategy == "recompute" else 0)


def timed(
    work: Work, speed: Speed | None, pace: Mapping[str, float], step: str, recipe: Recipe
) -> tuple[float | None, str]:
    """Seconds of a step of a recipe, and where they come from: its measured pace, else the device's speed."""
    tokens = tokens_read(step, recipe) if step else 0.0
    rate = pace.get(kind_of_work(step, recipe), pace.get(FORWARD)) if step else None
    if tokens and rate is not None:
        return tokens * rate, MEASURED
    return (speed.seconds(*work), PREDICTED) if speed is not None else (None, "")
