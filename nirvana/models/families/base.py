"""Adapter of a model family. Saliency, surgery, parameter counts and checkpoints follow from it alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nirvana.errors import ModelError
from nirvana.files import well_formed
from nirvana.layout import Layout, Site

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

MOST_LAYERS = 1_000  # of a stack
Config = Mapping[str, Any]
Layers = Mapping[str, Iterable[int]]  # stack -> original indices


class WeightSlice(NamedTuple):
    """The part of one linear layer that belongs to the units of a site.

    `WeightSlice("self_attn.q_proj", 0, 192)`: unit i owns rows 192 i .. 192 (i + 1) of the weight, and of the bias.
    `dim` 1 means columns of the weight; the bias, if any, stays. `module` is relative to the layer.
    """

    module: str
    dim: int
    size: int


class Family(ABC):
    """Adapter of one model family.

    Methods with a `config` argument take a plain `config.json` dictionary and need neither weights nor torch.

    Attributes:
        encoder_decoder: the decoder reads an encoder's output; otherwise it stands alone.
        layer_counts: stack -> the name under which a config counts its layers.
        fixed_layers: (stack, index) of layers with weights that other layers use.
        spelled_out: sizes that a saved config always gives, even where they follow from others.
        kept_in_float32: linear layers, by their last name, that the library keeps in float32 in a float16 model.
        bias_settings: module -> the setting that gives its linear layers biases, its output projection's included.
        unit_tables: (stack, module) -> a weight with one column a unit of the dense model, which all layers read.
    """

    name: str
    model_types: frozenset[str]
    encoder_decoder = False
    layer_counts: Mapping[str, str] = MappingProxyType({"decoder": "num_hidden_layers"})
    fixed_layers: frozenset[tuple[str, int]] = frozenset()
    spelled_out: tuple[str, ...] = ("head_dim",)
    kept_in_float32: frozenset[str] = frozenset()
    bias_settings: Mapping[str, str] = MappingProxyType({})
    unit_tables: Mapping[tuple[str, str], str] = MappingProxyType({})

    @abstractmethod
    def geometry(self, config: Config) -> dict[str, int]:
        """Sizes for display and estimates: layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary."""

    @abstractmethod
    def layout(self, config: Config, layers: Layers | None = None) -> Layout:
        """Sites of the dense model that `config` describes; with `layers`, of those original layers only."""

    @abstractmethod
    def slices(self, config: Config, site: Site) -> list[WeightSlice]:
        """The weights that belong to the units of `site`."""

    @abstractmethod
    def layer_config(self, config: Config, kept: Mapping[Site, np.ndarray], stack: str, layer: int) -> dict[str, Any]:
        """Settings of a layer that differ from `config` once its sites have `kept` units (original indices).

        In the form of transformers' per_layer_config where that has the setting.
        """

    @abstractmethod
    def units_of(self, config: Config, record: Mapping[str, Any], stack: str) -> dict[str, np.ndarray]:
        """Module -> the units of a layer with a `record` of `layer_config`: the reverse of that method.

        A record has no indices of KV groups and neurons: they are numbered from 0.

        Raises:
            ValueError: the record has impossible numbers of units.
        """

    @abstractmethod
    def uniform_config(self, config: Config, groups: int, width: int) -> dict[str, Any]:
        """The settings of a plain model whose layers all have `groups` KV groups and MLPs of `width` neurons."""

    @abstractmethod
    def blocks(self, model: PreTrainedModel) -> dict[str, nn.ModuleList]:
        """Stack -> its layers, in order."""

    @abstractmethod
    def hidden_states(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        decoder_input_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, T) ids -> (B, T, H) inputs of the output head: after the final norm, scaled if the family scales.

        With an encoder, `input_ids` and `attention_mask` are (B, S) and the T positions those of `decoder_input_ids`.
        """

    def generates_with_cache(self, config: Config) -> bool:
        """Whether the library can generate with cached keys and values."""
        return True

    def adapt(self, model: PreTrainedModel, kept: Mapping[Site, np.ndarray]) -> None:  # noqa: B027 - most need nothing
        """Store in the modules of a pruned model which units were `kept` (original indices), where they need it.

        Called after weights were sliced or read. By default nothing: sizes suffice.
        """

    def head(self, model: PreTrainedModel) -> nn.Linear:
        """The layer from hidden states to logits."""
        untyped: Any = model
        head: nn.Linear = untyped.get_output_embeddings()
        return head

    def embeddings(self, model: PreTrainedModel) -> nn.Embedding:
        """The token embeddings; the head may share their weight."""
        untyped: Any = model
        embeddings: nn.Embedding = untyped.get_input_embeddings()
        return embeddings

    def check(self, config: Config) -> None:
        """Validate the sizes of a configuration before anything is allocated for them.

        Raises:
            ModelError: naming the value.
        """
        limits = {
            "layers": MOST_LAYERS,
            "decoder_layers": MOST_LAYERS,
            "hidden": 1 << 17,
            "intermediate": 1 << 20,
            "vocabulary": 1 << 23,
            "heads": 4_096,
            "kv_heads": 4_096,
            "head_dim": 4_096,
            "positions": 1 << 30,
        }
        subject = f"config.json lacks or garbles a size that the {self.name} family needs"
        hint = "Download the model again, or correct its config.json."
        with well_formed(subject, ModelError, hint):
            geometry = self.geometry(config)
        for name, limit in limits.items():
            value = geometry.get(name, 1)
            if not 1 <= value <= limit:
                raise ModelError(f"config.json has {name} = {value}.", f"It should lie between 1 and {limit}.")
        if geometry["heads"] % geometry["kv_heads"]:
            raise ModelError(
                f"{geometry['heads']} query heads cannot share {geometry['kv_heads']} KV heads evenly.",
                "Correct num_attention_heads or num_key_value_heads in config.json.",
            )
        with well_formed(subject, ModelError, hint):
            self.layout(config)
