"""Attention for T5 blocks that kept different heads, without a copy of the library's forward.

Block 0 of a stack computes the position bias of all heads, (1, heads, T, S), and every block hands it to the next. A
subclass of the library's attention takes the bias of the heads that its block kept and hands on that of all heads.
`relative_attention_bias` stays that of the dense model. Every attention implementation of the library works, eager
attention with its weights included.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn


def keep_heads(attention: nn.Module, heads: np.ndarray) -> None:
    """Store in a T5 attention module which of the dense model's heads it kept."""
    module: Any = attention
    device = next(attention.parameters()).device
    attention.register_buffer("kept_heads", torch.from_numpy(heads).to(device), persistent=False)
    module.n_heads, module.inner_dim = len(heads), len(heads) * module.key_value_proj_dim
    if not isinstance(attention, KeptHeads):
        attention.__class__ = _with_kept_heads(module.__class__)


class KeptHeads:
    """The part of the subclass that handles position biases, before the library's class in its bases."""

    kept_heads: torch.Tensor
    bias_of_all: torch.Tensor  # of the call in progress, in block 0

    def compute_bias(self, *arguments: Any, **settings: Any) -> torch.Tensor:
        library: Any = super()
        self.bias_of_all = library.compute_bias(*arguments, **settings)
        return self.bias_of_all[:, self.kept_heads]

    def forward(self, *arguments: Any, position_bias: torch.Tensor | None = None, **settings: Any) -> tuple[Any, ...]:
        library: Any = super()
        if settings.get("key_value_states") is not None:  # cross-attention: zeros, of this module's own size
            result: tuple[Any, ...] = library.forward(*arguments, position_bias=None, **settings)
            return result
        own = None if position_bias is None else position_bias[:, self.kept_heads]
        result = library.forward(*arguments, position_bias=own, **settings)
        if position_bias is None:
            position_bias = self.bias_of_all
            del self.bias_of_all
        return result[0], position_bias, *result[2:]


@cache
def _with_kept_heads(library: Any) -> Any:
    return type(f"KeptHeads{library.__name__}", (KeptHeads, library), {})
