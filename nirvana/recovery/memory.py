"""Memory of a training step, and activations that are computed again to save it."""

from __future__ import annotations

from typing import Any

from torch import nn

from nirvana.environment import unchanged_environment
from nirvana.forward.chunks import CHUNK_LOGITS
from nirvana.models.limits import available_memory
from nirvana.models.lm import LM
from nirvana.saliency.budget import SHARE, block_activations

with unchanged_environment():  # torch's compiler, which the library imports, sets a variable of its cache
    from transformers.modeling_layers import GradientCheckpointingLayer

LOGITS = 3  # copies of a chunk of logits: themselves, log-probabilities and a gradient
ITEM = 4  # bytes of a float32
DROPPED = 1.5  # values that dropout keeps for one of its input: itself, its mask and slack (measured: 1.4)


def activation_bytes(lm: LM, model: nn.Module, rows: int, length: int) -> int:
    """Estimated bytes that all blocks keep for the backward pass of `rows` windows of `length` tokens, in float32.

    Args:
        lm: the model to be trained.
        model: its copy in training, with its adapters if any.
    """
    layers = sum(len(lm.layout.layers(stack)) for stack in lm.layout.stacks)
    adapted: list[Any] = [module for module in model.modules() if getattr(module, "lora_dropout", None)]
    dropped = sum(
        module.in_features
        for module in adapted
        if any(isinstance(each, nn.Dropout) for each in module.lora_dropout.values())
    )
    return int(rows * length * (layers * block_activations(lm) + DROPPED * dropped) * ITEM)


def fits(lm: LM, model: nn.Module, rows: int, length: int) -> bool:
    """Whether a step of `model`, a copy of `lm`, is estimated to fit the free memory without checkpointing.

    Args:
        lm: the model to be trained.
        model: its copy, before the first step.
        rows: of a micro-batch.
        length: tokens of a row.
    """
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    needed = activation_bytes(lm, model, rows, length) + LOGITS * CHUNK_LOGITS * ITEM
    needed += 3 * trained * ITEM  # gradients and both moments
    return needed <= available_memory(str(lm.device)) * SHARE


def checkpoint_blocks(model: Any, enabled: bool) -> None:
    """Compute the activations of each block again in the backward pass, or keep them."""
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # the older name
    if enabled:
        getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{kind}_checkpointing_disable")()
    model.disable_input_require_grads()  # only reentrant checkpointing needs them


def checkpointing_mode(model: nn.Module) -> None:
    """Put the checkpointed blocks themselves in training mode: in eval mode the library keeps their activations.

    What they contain stays in eval mode, so that the model's own dropout stays off.
    """
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module.training = True
