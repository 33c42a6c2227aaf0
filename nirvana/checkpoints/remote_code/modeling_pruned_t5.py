"""A pruned T5ForConditionalGeneration: its blocks have the heads and widths of `per_stack_config` in config.json.

Read this before you load the checkpoint with trust_remote_code=True. It makes the library's own linear layers smaller.
Block 0 of a stack computes the position bias of all heads of the base model; an attention function picks those of the
heads that a block kept, and calls the library's own. Needs transformers 5.15 or newer.
"""

from typing import Any

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.versions import require_version

require_version("transformers>=5.15", "T5 of older releases has all heads of the base model in every block.")

KEPT_HEADS = "kept_heads_of_blocks"
ATTENTIONS = {"attention": (0, "SelfAttention"), "cross_attention": (1, "EncDecAttention")}


def kept_heads_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **settings: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The library's attention, on the position bias of the heads that `module` kept."""
    bias = settings.pop("position_bias", None)
    heads = getattr(module, "kept_heads", None)
    if bias is not None and heads is not None:
        bias = bias[:, heads]
    return sdpa_attention_forward(module, query, key, value, mask, position_bias=bias, **settings)


ALL_ATTENTION_FUNCTIONS.register(KEPT_HEADS, kept_heads_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(KEPT_HEADS, sdpa_mask)


def shrink(parent: nn.Module, name: str, *, inputs: int | None = None, outputs: int | None = None) -> None:
    """Put a smaller linear layer in the place of one, with weights to be read."""
    old = getattr(parent, name)
    setattr(parent, name, nn.Linear(inputs or old.in_features, outputs or old.out_features, bias=False))


class PrunedT5ForConditionalGeneration(T5ForConditionalGeneration):
    """T5ForConditionalGeneration with blocks of uneven sizes."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        for stack, records in config.per_stack_config.items():
            for index, record in records.items():
                layers = getattr(self, stack).block[int(index)].layer
                for module, heads in record.get("kept_heads", {}).items():
                    place, name = ATTENTIONS[module]
                    attention = getattr(layers[place], name)
                    attention.kept_heads = heads
                    for projection in ("q", "k", "v"):
                        shrink(attention, projection, outputs=len(heads) * config.d_kv)
                    shrink(attention, "o", inputs=len(heads) * config.d_kv)
                if "d_ff" in record:
                    mlp = layers[-1].DenseReluDense
                    for name in ("wi_0", "wi_1") if config.is_gated_act else ("wi",):
                        shrink(mlp, name, outputs=record["d_ff"])
                    shrink(mlp, "wo", inputs=record["d_ff"])
                for name in record.get("output_biases", []):  # with values to be read
                    linear = getattr(self, stack).block[int(index)].get_submodule(name)
                    linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))
        self.set_attn_implementation(KEPT_HEADS)
        self.post_init()
