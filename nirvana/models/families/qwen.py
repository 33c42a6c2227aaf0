"""Qwen: Llama's blocks with biases on q, k and v (Qwen2, Qwen2.5), or with norms on query and key heads (Qwen3)."""

from __future__ import annotations

from types import MappingProxyType

from nirvana.layout import ATTENTION
from nirvana.models.families.base import Config
from nirvana.models.families.llama import Biases, LlamaFamily


class Qwen2Family(LlamaFamily):
    """Biases on q, k and v only, in every model; the config has no setting for them."""

    name = "Qwen2"
    model_types = frozenset({"qwen2"})
    architecture = "Qwen2ForCausalLM"
    heads_divide_hidden = False
    bias_settings = MappingProxyType({})
    default_kv_heads = 32

    def biases(self, config: Config) -> Biases:
        return Biases(inputs=True)


class Qwen3Family(LlamaFamily):
    """One norm for all query heads of a layer, one for its key heads; `head_dim` is independent of the hidden size."""

    name = "Qwen3"
    model_types = frozenset({"qwen3"})
    architecture = "Qwen3ForCausalLM"
    heads_divide_hidden = False
    bias_settings = MappingProxyType({ATTENTION: "attention_bias"})
    head_norms = 2
    default_kv_heads = 32
    default_head_dim = 128

    def biases(self, config: Config) -> Biases:
        attention = bool(config.get("attention_bias"))
        return Biases(inputs=attention, output=attention)
