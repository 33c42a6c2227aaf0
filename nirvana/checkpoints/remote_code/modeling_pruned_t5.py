"""A pruned T5ForConditionalGeneration: its blocks have the heads and widths of `per_stack_config` in config.json.

Read this before you load the checkpoint with trust_remote_code=True. It makes the library's own linear layers smaller.
Block 0 of a stack computes the position bias of all heads of the base model and every block hands it to the next; the
attention here takes that of the heads that its block kept. Needs transformers 5.15 or newer.
"""

import sys
from typing import Any

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.utils.versions import require_version

require_version("transformers>=5.15", "T5 of older releases has all heads of the base model in every block.")

ATTENTIONS = {"attention": (0, "SelfAttention"), "cross_attention": (1, "EncDecAttention")}


T5Attention: Any = sys.modules[T5ForConditionalGeneration.__module__].T5Attention


class PrunedT5Attention(T5Attention):  # type: ignore[misc]
    """T5Attention on the position bias of the heads that it kept; others read that of all heads."""

    kept_heads: list[int]

    def compute_bias(self, *arguments: Any, **settings: Any) -> torch.Tensor:
        bias: torch.Tensor = super().compute_bias(*arguments, **settings)
        self.bias_of_all = bias
        return bias[:, self.kept_heads]

    def forward(self, *arguments: Any, position_bias: torch.Tensor | None = None, **settings: Any) -> Any:
        if settings.get("key_value_states") is not None:  # cross-attention: zeros, of this module's own size
            return super().forward(*arguments, position_bias=None, **settings)
        own = None if position_bias is None else position_bias[:, self.kept_heads]
        result = super().forward(*arguments, position_bias=own, **settings)
        if position_bias is None:
            position_bias = self.bias_of_all
            del self.bias_of_all
        return result[0], position_bias, *result[2:]


def shrink(parent: nn.Module, name: str, *, inputs: int | None = None, outputs: int | None = None) -> None:
    """Put a smaller linear layer in the place of one, with weights to be read."""
    old = getattr(parent, name)
    setattr(parent, name, nn.Linear(inputs or old.in_features, outputs or old.out_features, bias=False))


class PrunedT5ForConditionalGeneration(T5ForConditionalGeneration):
    """T5ForConditionalGeneration with blocks of uneven sizes."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        for stack in (self.encoder, self.decoder):
            for module in stack.modules():
                if isinstance(module, T5Attention):
                    module.__class__ = PrunedT5Attention
                    module.kept_heads = list(range(config.num_heads))
        for stack, records in config.per_stack_config.items():
            for index, record in records.items():
                layers = getattr(self, stack).block[int(index)].layer
                for module, heads in record.get("kept_heads", {}).items():
                    place, name = ATTENTIONS[module]
                    attention = getattr(layers[place], name)
                    attention.kept_heads = heads
                    attention.n_heads, attention.inner_dim = len(heads), len(heads) * config.d_kv
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
        self.post_init()


# With this, save_pretrained writes this file beside the weights.
PrunedT5ForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
