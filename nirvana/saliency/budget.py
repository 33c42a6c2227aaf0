"""Choice between micro-batches and recomputation by estimated memory."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from nirvana.errors import SaliencyError
from nirvana.forward.states import BUDGET
from nirvana.layout import KV_GROUP, NEURON
from nirvana.models.limits import available_memory
from nirvana.models.lm import LM

MICRO_BATCHES, RECOMPUTE = "micro-batches", "recompute"
SHARE = 0.8  # of the free memory: the estimate is not exact
CPU_TOKENS = 256  # larger micro-batches run no faster on a CPU
GPU_TOKENS = 8192
SCRATCH = 64 << 20  # one weight's gradient pieces, logits of a vocabulary chunk, the allocator's slack


class Choice(NamedTuple):
    """`micro_batch` samples pass through the network at once; `estimate` is in bytes above the loaded model."""

    strategy: str
    micro_batch: int
    estimate: int


def choose(
    lm: LM,
    samples: int,
    length: int,
    *,
    strategy: str = "auto",
    memory: int | None = None,
    per_sample: bool = False,
) -> Choice:
    """The fastest strategy that fits `memory` bytes (default: most of the device's free memory).

    Micro-batches cost one forward and backward; recomputation costs another forward of the blocks and little memory. A
    single micro-batch with all samples needs no accumulated gradients. With `per_sample`, samples run one at a time and
    nothing is accumulated.

    Raises:
        SaliencyError: nothing fits.
    """
    if lm.disk is not None and strategy == MICRO_BATCHES:
        raise SaliencyError(
            f"Micro-batches need all weights of {lm.source.name}, which stay on disk.",
            "Use the strategy auto or recompute, or load the model without weights lazy.",
        )
    if lm.disk is not None:
        strategy = RECOMPUTE
    budget = int(available_memory(str(lm.device)) * SHARE) if memory is None else memory
    wanted = (CPU_TOKENS if lm.device.type == "cpu" else GPU_TOKENS) // length
    full = min(max(1, wanted), samples)
    sizes = [full >> shift for shift in range(full.bit_length())]
    if lm.device.type != "cpu":
        sizes.insert(0, samples)
    if per_sample:
        sizes = [1]
    smallest = 0
    for name in (MICRO_BATCHES, RECOMPUTE) if strategy == "auto" else (strategy,):
        for size in sizes:
            smallest = estimate(lm, samples, length, name, size, accumulated=not per_sample)
            if smallest <= budget:
                return Choice(name, size, smallest)
    raise SaliencyError(
        f"Scoring needs about {smallest / 2**30:.1f} GiB above the loaded model; {budget / 2**30:.1f} GiB may be used.",
        "Use fewer or shorter calibration samples, a smaller dtype, or another device.",
    )


def estimate(lm: LM, samples: int, length: int, strategy: str, micro_batch: int, *, accumulated: bool = True) -> int:
    """Peak bytes of scoring above the loaded model.

    `accumulated`: gradients add up over micro-batches before they are reduced.
    """
    hidden = lm.family.geometry(lm.settings)["hidden"]
    layers, item = sum(len(lm.layout.layers(stack)) for stack in lm.layout.stacks), lm.dtype.itemsize
    largest = max(lm.layout[site].parameters for site in lm.layout)
    tokens = micro_batch * length
    per_layer = tokens * item * block_activations(lm)
    if strategy == MICRO_BATCHES:
        kept = 4 * lm.layout.prunable if accumulated and micro_batch < samples else 0
        return per_layer * layers + kept + 2 * largest * item + SCRATCH
    boundaries = samples * length * hidden * item * (layers + 1)
    if lm.disk is not None:  # beyond the budget they are on disk, and two blocks are in memory
        boundaries = min(boundaries, 2 * BUDGET) + 2 * max(_block_sizes(lm)) * item
    return boundaries + 2 * per_layer + 3 * largest * 4 + SCRATCH


def _block_sizes(lm: LM) -> list[int]:
    """Prunable parameters of each block."""
    sizes = Counter[tuple[str, int]]()
    for site, place in lm.layout.items():
        sizes[site.stack, site.layer] += place.parameters
    return list(sizes.values())


def block_activations(lm: LM) -> int:
    """Values per token that one block keeps for its backward pass (measured on Llama blocks with fused attention).

    A decoder block with cross-attention keeps more than an encoder block; all are counted as the larger.
    """
    hidden = lm.family.geometry(lm.settings)["hidden"]
    neurons = max((place.units for place in lm.layout.values() if place.kind == NEURON), default=0)
    attention = max((place.parameters for place in lm.layout.values() if place.kind == KV_GROUP), default=0)
    attentions = max(Counter(site[:2] for site, place in lm.layout.items() if place.kind == KV_GROUP).values())
    projected = attentions * attention // hidden  # rows of q, k, v and columns of o
    return 5 * neurons + 6 * hidden + 2 * projected
