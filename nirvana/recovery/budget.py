"""Memory of a training step, from sizes alone. No torch."""

from __future__ import annotations

from nirvana.forward.bounds import CHUNK_LOGITS
from nirvana.models.sizes import FLOAT32, ModelSizes
from nirvana.recovery.options import RecoveryOptions

LOGITS = 3  # copies of a chunk of logits: themselves, log-probabilities and a gradient
DROPPED = 1.5  # values that dropout keeps for one of its input: itself, its mask and slack (measured: 1.4)
HALF = 2  # bytes of a bfloat16
MOMENTS = 2  # of AdamW


def activation_bytes(sizes: ModelSizes, options: RecoveryOptions, rows: int, length: int) -> int:
    """Estimated bytes that all blocks keep for the backward pass of `rows` windows of `length` tokens, in float32."""
    dropped = sizes.adapter_inputs if options.adapter_rank and options.dropout else 0
    return int(rows * length * (sizes.blocks * sizes.kept_by_block + DROPPED * dropped) * FLOAT32)


def checkpointed_bytes(sizes: ModelSizes, options: RecoveryOptions, rows: int, length: int) -> int:
    """The same where activations are computed again: the inputs of all blocks, and what one block keeps."""
    boundaries = rows * length * sizes.hidden * FLOAT32 * sizes.blocks
    return boundaries + activation_bytes(sizes, options, rows, length) // sizes.blocks


def trained_weights(sizes: ModelSizes, options: RecoveryOptions) -> int:
    """Number of weights in training: all of them, or those of adapters."""
    return sizes.adapter_weights(options.adapter_rank) if options.adapter_rank else sizes.layout.parameters


def half_bytes(sizes: ModelSizes, options: RecoveryOptions) -> int:
    """Bytes of the weights of matrix products in bfloat16, which autocast keeps through a step."""
    return 0 if options.autocast == "never" else HALF * (sizes.layout.prunable + sizes.head)


def logit_bytes(sizes: ModelSizes, positions: int) -> int:
    """Bytes of the logits of one chunk of positions with their probabilities and gradient."""
    return LOGITS * FLOAT32 * min(CHUNK_LOGITS, positions * sizes.vocabulary)


def checkpoints(sizes: ModelSizes, options: RecoveryOptions, free: int, length: int) -> bool:
    """Whether a step computes activations again: as the options say, else where keeping them takes over `free` bytes.

    Args:
        length: of the longest row.
    """
    if options.checkpointing != "auto":
        return options.checkpointing == "always"
    needed = activation_bytes(sizes, options, options.micro_batch, length) + LOGITS * CHUNK_LOGITS * FLOAT32
    return needed + (1 + MOMENTS) * FLOAT32 * trained_weights(sizes, options) > free
