"""Attention for T5 blocks that kept different heads, without a copy of the library's forward.

T5's attention passes the position bias of all heads, (1, heads, T, S), unchanged to an attention function and to the
next block. A function registered under this project's name selects the bias of the kept heads and calls the library's
attention function. `n_heads` and `relative_attention_bias` stay those of the dense model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "kept_heads"


def keep_heads(attention: nn.Module, heads: np.ndarray) -> None:
    """Store in a T5 attention module which of the dense model's heads it kept."""
    device = next(attention.parameters()).device
    attention.register_buffer(NAME, torch.from_numpy(heads).to(device), persistent=False)


def kept_heads_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **settings: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The library's attention on the position bias of the heads that `module` kept."""
    bias = settings.pop("position_bias", None)
    heads: Any = module.kept_heads
    chosen = None if bias is None else bias[:, heads]
    result: tuple[torch.Tensor, torch.Tensor | None] = sdpa_attention_forward(
        module, query, key, value, mask, position_bias=chosen, **settings
    )
    return result


ALL_ATTENTION_FUNCTIONS.register(NAME, kept_heads_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
