"""Shapes of large models, as in their published configs."""

from __future__ import annotations

from typing import Any

LLAMA = {"model_type": "llama", "tie_word_embeddings": False, "num_key_value_heads": 8, "vocab_size": 128_256}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "Llama-3.3-70B": LLAMA
    | {"hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80, "num_attention_heads": 64},
    "Qwen2.5-7B": {
        "model_type": "qwen2",
        "tie_word_embeddings": False,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
    },
    "T5-base": {
        "model_type": "t5",
        "d_model": 768,
        "d_ff": 3072,
        "d_kv": 64,
        "num_heads": 12,
        "num_layers": 12,
        "num_decoder_layers": 12,
        "vocab_size": 32_128,
        "feed_forward_proj": "relu",
    },
}
