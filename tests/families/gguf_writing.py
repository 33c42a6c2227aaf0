"""Write a model of the library as a GGUF file, with the names and orders of llama.cpp's converter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tests.conftest import byte_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_vocabulary() -> list[str]:
    """The byte tokenizer's tokens and one merged pair: a byte-pair vocabulary without merges is not accepted."""
    vocabulary = byte_tokenizer().get_vocab()
    return [*sorted(vocabulary, key=lambda token: vocabulary[token]), "th"]


def write_gguf(
    path: Path,
    architecture: str,
    model: PreTrainedModel,
    *,
    licence: str = "",
    scaling: str = "",
    rope_factors: bool = False,
    **counts: int,
) -> Path:
    """Write `model`, whose vocabulary is `gguf_vocabulary()`; `counts` are more keys of the architecture.

    `scaling` names how rotary positions are scaled; with `rope_factors` the file holds factors for that.
    """
    from gguf import GGUFWriter

    config = model.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    attention: Any = model.get_submodule("model.layers.0.self_attn")
    size = attention.head_dim
    tokens = gguf_vocabulary()
    writer = GGUFWriter(str(path), architecture)
    writer.add_name("Tiny")
    if licence:
        writer.add_license(licence)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    if scaling:
        writer.add_string(f"{architecture}.rope.scaling.type", scaling)
    if rope_factors:
        writer.add_tensor("rope_freqs.weight", np.ones(size // 2, np.float32))
    for name, count in counts.items():
        writer.add_uint32(f"{architecture}.{name}", count)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        module, kind = name.rsplit(".", 1)
        if module not in TOP:
            _, _, layer, part = module.split(".", 3)
            target = f"blk.{layer}.{NAMES[part]}.{kind}"
            if architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
                tensor = _rotary_pairs(tensor, heads if part.endswith("q_proj") else groups)
        else:
            target = f"{TOP[module]}.{kind}"
        writer.add_tensor(target, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _rotary_pairs(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in llama.cpp's order for Llama: the two halves of each head interleaved."""
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
