"""Llama and models with the same blocks: grouped-query attention with rotary positions and a gated MLP."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nirvana.files import whole_number
from nirvana.layout import ATTENTION, KV_GROUP, MLP, NEURON, Layout, PlainForm, Site, SiteLayout
from nirvana.models.families.base import Config, Family, Layers, WeightSlice

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

STACK = "decoder"


class Biases(NamedTuple):
    """Whether linear layers of a block have biases; `inputs` are q, k and v, `output` is o."""

    inputs: bool = False
    output: bool = False
    mlp: bool = False


class LlamaFamily(Family):
    """q, k, v, o and gate, up, down projections; a unit of attention is a KV group, of the MLP a neuron.

    Subclasses override `biases`, `head_norms`, and the library's defaults for keys that a config.json may omit.
    """

    name = "Llama"
    model_types = frozenset({"llama"})
    architecture = "LlamaForCausalLM"
    heads_divide_hidden = True  # the library rejects a config whose number of heads does not
    bias_settings: Mapping[str, str] = MappingProxyType({ATTENTION: "attention_bias", MLP: "mlp_bias"})
    head_norms = 0  # norms of head_dim weights in each attention module
    default_kv_heads: int | None = None  # None: as many as query heads
    default_head_dim: int | None = None  # None: hidden size / query heads

    def biases(self, config: Config) -> Biases:
        attention = bool(config.get("attention_bias"))
        return Biases(inputs=attention, output=attention, mlp=bool(config.get("mlp_bias")))

    def geometry(self, config: Config) -> dict[str, int]:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return {
            "layers": int(config["num_hidden_layers"]),
            "hidden": hidden,
            "heads": heads,
            "kv_heads": int(config.get("num_key_value_heads", self.default_kv_heads) or heads),
            "head_dim": int(config.get("head_dim") or self.default_head_dim or hidden // heads),
            "intermediate": int(config["intermediate_size"]),
            "vocabulary": int(config["vocab_size"]),
            "positions": int(config.get("max_position_embeddings") or 2048),
        }

    def layout(self, config: Config, layers: Layers | None = None) -> Layout:
        g, biases = self.geometry(config), self.biases(config)
        hidden, per_group = g["hidden"], g["heads"] // g["kv_heads"]
        present = list(range(g["layers"]) if layers is None else layers[STACK])
        attention = SiteLayout(
            units=g["kv_heads"],
            cost=2 * g["head_dim"] * (per_group + 1) * hidden,
            kind=KV_GROUP,
            biases=(per_group + 2) * g["head_dim"] if biases.inputs else 0,
            output_bias=hidden if biases.output else 0,
        )
        mlp = SiteLayout(
            units=g["intermediate"],
            cost=3 * hidden,
            kind=NEURON,
            biases=2 if biases.mlp else 0,
            output_bias=hidden if biases.mlp else 0,
        )
        sites = {}
        for layer in present:
            sites[Site(STACK, layer, ATTENTION)] = attention
            sites[Site(STACK, layer, MLP)] = mlp
        norms = 2 * hidden + self.head_norms * g["head_dim"]
        other = {"embeddings": g["vocabulary"] * hidden, "norms": norms * len(present) + hidden}
        if not config.get("tie_word_embeddings", False):
            other["output head"] = g["vocabulary"] * hidden
        plain = PlainForm(groups_divide=hidden // per_group if self.heads_divide_hidden else 0)
        return Layout(sites, other, self.architecture, plain)

    def slices(self, config: Config, site: Site) -> list[WeightSlice]:
        if site.module == MLP:
            return [
                WeightSlice("mlp.gate_proj", 0, 1),
                WeightSlice("mlp.up_proj", 0, 1),
                WeightSlice("mlp.down_proj", 1, 1),
            ]
        g = self.geometry(config)
        queries = g["heads"] // g["kv_heads"] * g["head_dim"]
        return [
            WeightSlice("self_attn.q_proj", 0, queries),
            WeightSlice("self_attn.k_proj", 0, g["head_dim"]),
            WeightSlice("self_attn.v_proj", 0, g["head_dim"]),
            WeightSlice("self_attn.o_proj", 1, queries),
        ]

    def layer_config(self, config: Config, kept: Mapping[Site, np.ndarray], stack: str, layer: int) -> dict[str, Any]:
        g = self.geometry(config)
        groups = len(kept[Site(STACK, layer, ATTENTION)])
        width = len(kept[Site(STACK, layer, MLP)])
        record = {}
        if groups != g["kv_heads"]:
            record["num_attention_heads"] = groups * (g["heads"] // g["kv_heads"])
            record["num_key_value_heads"] = groups
        if width != g["intermediate"]:
            record["intermediate_size"] = width
        return record

    def units_of(self, config: Config, record: Mapping[str, Any], stack: str) -> dict[str, np.ndarray]:
        g = self.geometry(config)
        groups = whole_number(record.get("num_key_value_heads", g["kv_heads"]), g["kv_heads"])
        width = whole_number(record.get("intermediate_size", g["intermediate"]), g["intermediate"])
        return {ATTENTION: np.arange(groups), MLP: np.arange(width)}

    def uniform_config(self, config: Config, groups: int, width: int) -> dict[str, Any]:
        g = self.geometry(config)
        return {
            "num_attention_heads": groups * (g["heads"] // g["kv_heads"]),
            "num_key_value_heads": groups,
            "head_dim": g["head_dim"],  # no longer hidden size / heads
            "intermediate_size": width,
        }

    def blocks(self, model: PreTrainedModel) -> dict[str, nn.ModuleList]:
        return {STACK: model.model.layers}

    def hidden_states(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        decoder_input_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        output = model.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden


class MistralFamily(LlamaFamily):
    """Llama's blocks without biases. The library masks positions further back than `sliding_window`."""

    name = "Mistral"
    model_types = frozenset({"mistral"})
    architecture = "MistralForCausalLM"
    heads_divide_hidden = False
    bias_settings = MappingProxyType({})
    default_kv_heads = 8

    def biases(self, config: Config) -> Biases:
        return Biases()
