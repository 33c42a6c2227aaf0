"""Peak memory of each step, in the moments at which it can be highest.

Every function gives the memory on the device that computes, with the weights of the model. The numbers of tokens and
logits held at once are those of the code itself (`nirvana.forward.bounds`, `nirvana.saliency.budget`,
`nirvana.recovery.budget`); the factors before them count the tensors that are alive together in that code. Measured
against them by `benchmarks/estimates.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from nirvana.compensation.statistics import statistics_bytes
from nirvana.estimation.results import Memory, largest
from nirvana.forward.bounds import BUDGET, MOST_LOGITS, batch_tokens, chunk_positions
from nirvana.models.sizes import FLOAT32, ModelSizes
from nirvana.recovery.budget import (
    MOMENTS,
    activation_bytes,
    checkpointed_bytes,
    checkpoints,
    half_bytes,
    logit_bytes,
    trained_weights,
)
from nirvana.recovery.options import RecoveryOptions
from nirvana.saliency.budget import Choice, choose, need
from nirvana.saliency.criteria import find_criterion

FLOAT64 = 8
BASE, PER_TOKEN = 12 << 20, 300  # bytes of the allocator and the libraries; of the tokenizer, for each of its tokens
PARSED = 600  # bytes for each token while a tokenizer's file is read
PIECE = 1 << 22  # weights that magnitude reduces at a time
SHARD = 1 << 30  # bytes of a file of a checkpoint
MOST_REFERENCE, REFERENCE_SHARE = 2 << 30, 0.125  # of the dense model's log-probabilities, and of the free memory
REMOVAL = 5.0  # float64 matrices of a site while its units are removed: inverse, loss and their updates
CHECKED = 8  # windows of each held-out text of a recovery


def resident(sizes: ModelSizes, device: str, blocks: int = 2) -> Memory:
    """A loaded model, of weights on disk as many `blocks`, and nothing else; its tokenizer is in the CPU's memory."""
    other = BASE + PER_TOKEN * sizes.vocabulary if device == "cpu" else 0
    return Memory(weights=sizes.resident(device, blocks), other=other)


def forward(sizes: ModelSizes, device: str, length: int, windows: int, *, copies: float = 0) -> Memory:
    """A batch in a forward pass without autograd, and `copies` of a chunk of its logits in float32."""
    tokens = min(max(length, batch_tokens(device) // length * length), windows * length)
    states = 2 * tokens * sizes.hidden * sizes.item
    if sizes.lazy:
        states += min(windows * length * sizes.hidden * sizes.item, BUDGET)
    logits = FLOAT32 * sizes.vocabulary * min(tokens, chunk_positions(sizes.vocabulary))
    halves = logits // 2 if copies and sizes.item < FLOAT32 else 0  # those in half precision, before they are float32
    after = sizes.lazy and copies > 0  # then all batches have passed all blocks before the first logits
    return Memory(
        activations=0 if after else tokens * sizes.passed_by_block * sizes.item,
        logits=int(copies * logits) + halves,
        hidden_states=states,
    )


def reference(sizes: ModelSizes, positions: int, free: int) -> Memory:
    """The dense model's side of a divergence that is kept: log-probabilities where they fit, else hidden states."""
    logits = positions * sizes.vocabulary * FLOAT32
    if logits <= min(MOST_REFERENCE, REFERENCE_SHARE * free):
        return Memory(logits=logits)
    return Memory(hidden_states=positions * sizes.hidden * sizes.item)


def scoring(
    sizes: ModelSizes, device: str, criterion: str, samples: int, length: int, free: int, strategy: str
) -> tuple[Memory, Choice | None]:
    """Scoring above the loaded model, with the choice of strategy where there is one.

    Raises:
        SaliencyError: nothing fits `free` bytes, or the criterion is unknown.
    """
    reads = find_criterion(criterion).reads
    if reads == "nothing":
        return Memory(other=min(PIECE, sizes.largest_site) * FLOAT32), None
    if reads == "activations":
        copied = min(batch_tokens(device), samples * length) * max(sizes.input_widths.values()) * FLOAT32
        return forward(sizes, device, length, samples) + Memory(activations=2 * copied), None
    one_by_one = criterion in ("nirvana-per-sample", "second-order")
    chosen = choose(sizes, samples, length, device=device, strategy=strategy, memory=free, per_sample=one_by_one)
    found = need(sizes, samples, length, chosen.strategy, chosen.micro_batch, accumulated=not one_by_one)
    moment = Memory(  # without the blocks of weights on disk, which the loaded model has
        activations=found.activations,
        gradients=found.gradients,
        hidden_states=found.hidden_states,
        other=found.scratch,
    )
    if criterion == "second-order":
        return largest([moment, *removal(sizes, device, samples, length)]), chosen
    return moment, chosen


def removal(sizes: ModelSizes, device: str, samples: int, length: int) -> list[Memory]:
    """Statistics of the calibration text, then the removal of units one by one, in float64."""
    width, kept = max(sizes.input_widths.values()), statistics_bytes(sizes.input_widths.values())
    matrices = REMOVAL * FLOAT64 * width**2 + 2 * FLOAT64 * width * sizes.hidden
    collected = collecting(sizes, device, samples, length, second=True)
    return [*collected, Memory(statistics=kept + int(matrices))]


def collecting(sizes: ModelSizes, device: str, samples: int, length: int, *, second: bool) -> list[Memory]:
    """Collecting the moments of inputs, and making the products symmetric."""
    widths = list(sizes.input_widths.values())
    copied = min(batch_tokens(device), samples * length) * max(widths) * FLOAT32
    reading = forward(sizes, device, length, samples) + Memory(activations=copied if sizes.item < FLOAT32 else 0)
    if not second:
        return [reading]
    kept = Memory(statistics=statistics_bytes(widths))
    return [reading + kept, kept + Memory(statistics=statistics_bytes([max(widths)]))]


def pruning(sizes: ModelSizes, sparsity: float, *, compensation: str) -> Memory:
    """The pruned copy, with the statistics and the solution of the largest site where it is compensated."""
    small = sizes.resized(sparsity)
    made = Memory(weights=0 if sizes.lazy else small.weight_bytes)
    if compensation == "none":
        return made
    width = max(sizes.input_widths.values())
    if compensation == "bias":
        return made + Memory(statistics=FLOAT64 * (width * sizes.hidden + len(sizes.layout) * width))
    left = round(width * (1 - sparsity))
    products = (FLOAT32 + FLOAT64) * width * left + 2 * FLOAT64 * left**2
    exact = FLOAT64 * sizes.hidden * (width + 2 * left)
    return made + Memory(statistics=statistics_bytes(sizes.input_widths.values()) + products + exact)


def measuring(sizes: ModelSizes, device: str, length: int, windows: int) -> Memory:
    """Perplexity above the loaded model: logits, and their log-probabilities in the loss."""
    return forward(sizes, device, length, windows, copies=2)


def comparing(sizes: ModelSizes, device: str, length: int, windows: int) -> Memory:
    """Divergence above the loaded models and the reference."""
    return forward(sizes, device, length, windows, copies=3)


def answering(sizes: ModelSizes, device: str, longest: int) -> Memory:
    """A batch of zero-shot requests, whose logits are whole, with their log-probabilities."""
    tokens = max(min(batch_tokens(device), MOST_LOGITS // sizes.vocabulary), longest)
    logits = tokens * sizes.vocabulary
    return forward(sizes, device, tokens, 1) + Memory(logits=logits * (2 * FLOAT32 + sizes.item))


def saving(sizes: ModelSizes, item: int) -> Memory:
    """The tensors of a shard that are converted to the dtype of the files, or read from disk."""
    converted = item != sizes.item
    weights = sizes.layout.parameters if converted else sizes.layout.prunable if sizes.lazy else 0
    shard = min(weights * item, max(SHARD, sizes.head * item))
    return Memory(other=shard + (2 * sizes.head * item if converted else 0))


def training(
    sizes: ModelSizes, device: str, options: RecoveryOptions, *, teacher: ModelSizes, free: int, texts: int = 2
) -> tuple[Memory, bool]:
    """A recovery above the pruned model and its teacher, and whether activations are computed again.

    Args:
        sizes: of the pruned model.
        texts: held-out texts that are measured.
    """
    rows, length = options.micro_batch, options.length
    again = checkpoints(sizes, options, free, length)
    trained, adapters = trained_weights(sizes, options), options.adapter_rank > 0
    copy = FLOAT32 * (sizes.layout.parameters + (2 if adapters else 1) * trained)  # the copy itself, and its best
    held = FLOAT32 * (1 + MOMENTS) * trained
    taught = texts * CHECKED * length * sizes.hidden * teacher.item
    step = Memory(
        weights=copy + half_bytes(sizes, options),
        activations=(checkpointed_bytes if again else activation_bytes)(sizes, options, rows, length),
        gradients=held,
        logits=logit_bytes(sizes, rows * length) * (5 if options.method == "distill" else 3) // 3,
        hidden_states=taught + 3 * rows * length * sizes.hidden * FLOAT32,
    )
    check = forward(sizes, device, length, CHECKED, copies=4) + Memory(
        weights=copy + FLOAT32 * trained, gradients=held, hidden_states=2 * taught
    )
    return largest([step, check]), again


def peaks(base: Memory, phases: Sequence[Memory]) -> Memory:
    """The highest of the phases, each above `base`."""
    return largest([base + phase for phase in phases])
