"""T5, T5 v1.1, Flan-T5, mT5 and ByT5: an encoder, and a decoder that reads its output through cross-attention.

Every head has its own keys and values, so a unit of attention is one head: a KV group of one query head. Block 0 of a
stack computes the relative position bias of all heads, which all blocks of the stack use; see `kept_heads.py` for how
blocks that kept different heads pick theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nirvana.files import whole_number, whole_numbers
from nirvana.layout import ATTENTION, CROSS_ATTENTION, KV_GROUP, MLP, NEURON, Layout, PlainForm, Site, SiteLayout
from nirvana.models.families.base import Config, Family, Layers, WeightSlice

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

ENCODER, DECODER = "encoder", "decoder"
MODULES = {ENCODER: (ATTENTION, MLP), DECODER: (ATTENTION, CROSS_ATTENTION, MLP)}
# All blocks of a stack read one position bias, which is by head.
PLAIN = PlainForm(same_units=((ENCODER, ATTENTION), (DECODER, ATTENTION)))
ATTENTIONS = {ATTENTION: "layer.0.SelfAttention", CROSS_ATTENTION: "layer.1.EncDecAttention"}


class T5Family(Family):
    """q, k, v, o in each attention; wi and wo in an MLP, or wi_0, wi_1 and wo where it is gated. No biases."""

    name = "T5"
    model_types = frozenset({"t5"})
    architecture = "T5ForConditionalGeneration"
    default_projection = "relu"
    encoder_decoder = True
    layer_counts = MappingProxyType({ENCODER: "num_layers", DECODER: "num_decoder_layers"})
    fixed_layers = frozenset({(ENCODER, 0), (DECODER, 0)})  # they hold the position bias of their stack
    spelled_out = ()
    kept_in_float32 = frozenset({"wo"})
    unit_tables = MappingProxyType(
        {
            (stack, ATTENTION): f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            for stack in MODULES
        }
    )

    def gated(self, config: Config) -> bool:
        return str(config.get("feed_forward_proj", self.default_projection)).startswith("gated")

    def geometry(self, config: Config) -> dict[str, int]:
        heads, layers = int(config["num_heads"]), int(config["num_layers"])
        return {
            "layers": layers,
            "decoder_layers": int(config.get("num_decoder_layers") or layers),
            "hidden": int(config["d_model"]),
            "heads": heads,
            "kv_heads": heads,
            "head_dim": int(config["d_kv"]),
            "intermediate": int(config["d_ff"]),
            "vocabulary": int(config["vocab_size"]),
        }

    def layout(self, config: Config, layers: Layers | None = None) -> Layout:
        g = self.geometry(config)
        if layers is None:
            layers = {ENCODER: range(g["layers"]), DECODER: range(g["decoder_layers"])}
        attention = SiteLayout(units=g["heads"], cost=4 * g["head_dim"] * g["hidden"], kind=KV_GROUP)
        matrices = 3 if self.gated(config) else 2
        mlp = SiteLayout(units=g["intermediate"], cost=matrices * g["hidden"], kind=NEURON)
        sites, norms = {}, 0
        for stack, modules in MODULES.items():
            for layer in layers[stack]:
                for module in modules:
                    sites[Site(stack, layer, module)] = mlp if module == MLP else attention
                    norms += g["hidden"]  # one before each module
            norms += g["hidden"]
        buckets = int(config.get("relative_attention_num_buckets") or 32)
        other = {
            "embeddings": g["vocabulary"] * g["hidden"],
            "norms": norms,
            "position biases": len(MODULES) * buckets * g["heads"],
        }
        if not config.get("tie_word_embeddings", True):
            other["output head"] = g["vocabulary"] * g["hidden"]
        return Layout(sites, other, self.architecture, PLAIN)

    def slices(self, config: Config, site: Site) -> list[WeightSlice]:
        if site.module == MLP:
            inputs = ("wi_0", "wi_1") if self.gated(config) else ("wi",)
            path = f"layer.{len(MODULES[site.stack]) - 1}.DenseReluDense"
            return [*(WeightSlice(f"{path}.{name}", 0, 1) for name in inputs), WeightSlice(f"{path}.wo", 1, 1)]
        size, path = self.geometry(config)["head_dim"], ATTENTIONS[site.module]
        return [*(WeightSlice(f"{path}.{name}", 0, size) for name in "qkv"), WeightSlice(f"{path}.o", 1, size)]

    def generates_with_cache(self, config: Config) -> bool:
        """Not with more decoder than encoder layers: the library sizes the decoder's cache by the encoder."""
        g = self.geometry(config)
        return g["decoder_layers"] <= g["layers"]

    def layer_config(self, config: Config, kept: Mapping[Site, np.ndarray], stack: str, layer: int) -> dict[str, Any]:
        g = self.geometry(config)
        heads = {module: kept[Site(stack, layer, module)].tolist() for module in MODULES[stack] if module in ATTENTIONS}
        record: dict[str, Any] = {}
        changed = {module: indices for module, indices in heads.items() if len(indices) != g["heads"]}
        if changed:
            record["kept_heads"] = changed
        width = len(kept[Site(stack, layer, MLP)])
        if width != g["intermediate"]:
            record["d_ff"] = width
        return record

    def units_of(self, config: Config, record: Mapping[str, Any], stack: str) -> dict[str, np.ndarray]:
        g = self.geometry(config)
        every, heads = list(range(g["heads"])), record.get("kept_heads", {})
        units = {module: whole_numbers(heads.get(module, every)) for module in MODULES[stack] if module in ATTENTIONS}
        return {**units, MLP: np.arange(whole_number(record.get("d_ff", g["intermediate"]), g["intermediate"]))}

    def uniform_config(self, config: Config, groups: int, width: int) -> dict[str, Any]:
        return {"num_heads": groups, "d_ff": width}

    def blocks(self, model: PreTrainedModel) -> dict[str, nn.ModuleList]:
        library: Any = model
        return {ENCODER: library.encoder.block, DECODER: library.decoder.block}

    def hidden_states(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        decoder_input_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Input of the library's output head; the library scales it first for some models."""
        from torch import nn

        assert decoder_input_ids is not None
        library: Any = model
        head, library.lm_head = library.lm_head, nn.Identity()
        try:
            output = library(
                input_ids=input_ids,
                attention_mask=attention_mask,
                decoder_input_ids=decoder_input_ids,
                use_cache=False,
            )
        finally:
            library.lm_head = head
        hidden: torch.Tensor = output.logits
        return hidden

    def head(self, model: PreTrainedModel) -> nn.Linear:
        head: nn.Linear = model.lm_head
        return head

    def adapt(self, model: PreTrainedModel, kept: Mapping[Site, np.ndarray]) -> None:
        from nirvana.models.families.kept_heads import keep_heads

        for stack, blocks in self.blocks(model).items():
            layers = sorted({site.layer for site in kept if site.stack == stack})
            for layer, block in zip(layers, blocks, strict=True):
                for module, path in ATTENTIONS.items():
                    if module in MODULES[stack]:
                        keep_heads(block.get_submodule(path), kept[Site(stack, layer, module)])


class MT5Family(T5Family):
    """mT5: the blocks of T5 v1.1, with the library's own classes for them."""

    name = "mT5"
    model_types = frozenset({"mt5"})
    architecture = "MT5ForConditionalGeneration"
    default_projection = "gated-gelu"
