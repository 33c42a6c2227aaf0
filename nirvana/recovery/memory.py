"""Activations that are computed again to save memory."""

from __future__ import annotations

from typing import Any

from torch import nn

from nirvana.environment import unchanged_environment

with unchanged_environment():  # torch's compiler, which the library imports, sets a variable of its cache
    from transformers.modeling_layers import GradientCheckpointingLayer


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
