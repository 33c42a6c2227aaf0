"""A pruned LlamaForCausalLM: its layers have the sizes that `per_layer_config` in config.json gives them,
and biases on the output projections that it names.

Read this before you load the checkpoint with trust_remote_code=True. It builds the library's own layers one by one
and changes nothing of what they compute.
"""

import copy
from typing import Any

from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PretrainedConfig


def layer_config(config: LlamaConfig, index: int) -> PretrainedConfig:
    """The config of one layer."""
    records = config.per_layer_config
    if not isinstance(records, dict):  # transformers from 5.14 on keeps the records itself
        return records[index]
    own = copy.copy(config)
    for name, value in records.get(str(index), {}).items():
        setattr(own, name, value)
    return own


class PrunedLlamaModel(LlamaModel):
    """LlamaModel with layers of uneven widths."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        layer_class = type(self.layers[0])
        layers = [layer_class(layer_config(config, index), index) for index in range(config.num_hidden_layers)]
        for index, layer in enumerate(layers):
            for name in getattr(layer_config(config, index), "output_biases", []):  # with values to be read
                linear: Any = layer.get_submodule(name)
                linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))
            part: Any
            for part in layer.modules():
                if hasattr(part, "config"):  # one config for all, so that set_attn_implementation reaches them
                    part.config = config
        self.layers = nn.ModuleList(layers)
        self.post_init()


class PrunedLlamaForCausalLM(LlamaForCausalLM):
    """LlamaForCausalLM on a PrunedLlamaModel."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = PrunedLlamaModel(config)
        self.post_init()


# With these, save_pretrained writes this file beside the weights.
PrunedLlamaModel.register_for_auto_class("AutoModel")
PrunedLlamaForCausalLM.register_for_auto_class("AutoModelForCausalLM")
