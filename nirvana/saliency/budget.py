"""Choice between micro-batches and recomputation by estimated memory. No torch."""

from __future__ import annotations

from typing import NamedTuple

from nirvana.errors import SaliencyError
from nirvana.forward.bounds import BUDGET
from nirvana.models.limits import SHARE, available_memory
from nirvana.models.sizes import FLOAT32, ModelSizes

MICRO_BATCHES, RECOMPUTE = "micro-batches", "recompute"
CPU_TOKENS = 256  # larger micro-batches run no faster on a CPU
GPU_TOKENS = 8192
SCRATCH = 32 << 20  # pieces of a gradient, logits of a vocabulary chunk, the allocator's slack


class Choice(NamedTuple):
    """`micro_batch` samples pass through the network at once; `estimate` is in bytes above the loaded model."""

    strategy: str
    micro_batch: int
    estimate: int


class Need(NamedTuple):
    """Bytes above the loaded model at the peak of scoring, by part; of weights on disk, those of blocks in memory."""

    activations: int = 0
    gradients: int = 0
    hidden_states: int = 0
    weights: int = 0
    scratch: int = SCRATCH


def choose(
    sizes: ModelSizes,
    samples: int,
    length: int,
    *,
    device: str = "cpu",
    strategy: str = "auto",
    memory: int | None = None,
    per_sample: bool = False,
    name: str = "the model",
) -> Choice:
    """The fastest strategy that fits `memory` bytes (default: most of the device's free memory).

    Micro-batches cost one forward and backward; recomputation costs another forward of the blocks and little memory. A
    single micro-batch with all samples needs no accumulated gradients. With `per_sample`, samples run one at a time and
    nothing is accumulated.

    Args:
        name: of the model, in errors.

    Raises:
        SaliencyError: nothing fits.
    """
    if sizes.lazy and strategy == MICRO_BATCHES:
        raise SaliencyError(
            f"Micro-batches need all weights of {name}, which stay on disk.",
            "Use the strategy auto or recompute, or load the model without weights lazy.",
        )
    if sizes.lazy:
        strategy = RECOMPUTE
    budget = int(available_memory(device) * SHARE) if memory is None else memory
    smallest = 0
    for each in (MICRO_BATCHES, RECOMPUTE) if strategy == "auto" else (strategy,):
        for size in micro_batches(samples, length, device=device, per_sample=per_sample):
            smallest = estimate(sizes, samples, length, each, size, accumulated=not per_sample)
            if smallest <= budget:
                return Choice(each, size, smallest)
    raise SaliencyError(
        f"Scoring needs about {smallest / 2**30:.1f} GiB above the loaded model; {budget / 2**30:.1f} GiB may be used.",
        "Use fewer or shorter calibration samples, a smaller dtype, or another device.",
    )


def micro_batches(samples: int, length: int, *, device: str, per_sample: bool = False) -> list[int]:
    """Numbers of samples to pass at once, in the order in which they are tried."""
    if per_sample:
        return [1]
    on_cpu = device == "cpu"
    full = min(max(1, (CPU_TOKENS if on_cpu else GPU_TOKENS) // length), samples)
    sizes = [full >> shift for shift in range(full.bit_length())]
    return sizes if on_cpu else [samples, *sizes]


def estimate(
    sizes: ModelSizes, samples: int, length: int, strategy: str, micro_batch: int, *, accumulated: bool = True
) -> int:
    """Peak bytes of scoring above the loaded model; see `need`."""
    return sum(need(sizes, samples, length, strategy, micro_batch, accumulated=accumulated))


def need(
    sizes: ModelSizes, samples: int, length: int, strategy: str, micro_batch: int, *, accumulated: bool = True
) -> Need:
    """Peak bytes of scoring above the loaded model, by part.

    `accumulated`: gradients add up over micro-batches before they are reduced.
    """
    per_block = micro_batch * length * sizes.kept_by_block * sizes.item
    several = accumulated and micro_batch < samples
    if strategy == MICRO_BATCHES:
        kept = FLOAT32 * sizes.layout.prunable if several else 0
        return Need(per_block * sizes.blocks, kept + sizes.largest_site * sizes.item)
    boundaries = samples * length * sizes.hidden * sizes.item * (sizes.blocks + 1)
    weights = 0
    if sizes.lazy:  # beyond the budget they are on disk, and two blocks are in memory
        boundaries, weights = min(boundaries, 2 * BUDGET), 2 * sizes.largest_block * sizes.item
    kept = FLOAT32 * sizes.largest_block if several else 0
    return Need(2 * per_block, kept + sizes.largest_site * sizes.item, boundaries, weights)
