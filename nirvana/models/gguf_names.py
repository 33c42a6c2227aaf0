"""llama.cpp's names for the tensors of a block, and its order of rotated rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LAYER_NAMES = {
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
MODEL_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LIBRARY_NAMES = {name: part for part, name in (LAYER_NAMES | MODEL_NAMES).items()}
FUSED, INPUTS = "attn_qkv", ("attn_q", "attn_k", "attn_v")
ROTATED = ("attn_q", "attn_k")
PAIRED = ("llama", "deci")  # architectures that rotate neighbouring rows of a head, not its two halves


def gguf_name(name: str) -> str:
    """The name of a parameter in GGUF, e.g. "model.layers.3.mlp.up_proj.weight" => "blk.3.ffn_up.weight".

    Raises:
        KeyError: llama.cpp has no such tensor.
    """
    module, kind = name.rsplit(".", 1)
    if module in MODEL_NAMES:
        return f"{MODEL_NAMES[module]}.{kind}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"


def library_name(name: str) -> str:
    """The reverse of `gguf_name`.

    Raises:
        KeyError: the library has no such tensor.
    """
    module, kind = name.rsplit(".", 1)
    if not module.startswith("blk."):
        return f"{LIBRARY_NAMES[module]}.{kind}"
    _, layer, part = module.split(".", 2)
    return f"model.layers.{int(layer)}.{LIBRARY_NAMES[part]}.{kind}"


def is_rotated(name: str) -> bool:
    """Whether the rows of a GGUF tensor are query or key rows, which positions rotate."""
    return name.split(".")[-2] in ROTATED


def rotary_pairs(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """(heads * head_dim, ...) rows with the two halves of each head interleaved: llama.cpp rotates neighbours."""
    heads = rows.shape[0] // head_dim
    return rows.reshape(heads, 2, head_dim // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def rotary_halves(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """The reverse of `rotary_pairs`."""
    heads = rows.shape[0] // head_dim
    return rows.reshape(heads, head_dim // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)
