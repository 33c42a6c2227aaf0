"""Qwen2 with biases, tied and untied; Qwen3 with norms on heads of a size of their own."""

from __future__ import annotations

from typing import ClassVar

from tests.families.base import FamilyTests, Settings


class TestQwen2(FamilyTests):
    library = "Qwen2"


class TestQwen2Tied(FamilyTests):
    """Tied like the small Qwen2.5, with a sliding window in its last layers."""

    library = "Qwen2"
    settings: ClassVar[Settings] = {
        "vocab_size": 260,  # the library's Qwen2 tokenizer adds <|endoftext|> to the 258 tokens
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
    }


class TestQwen3(FamilyTests):
    library = "Qwen3"
    settings: ClassVar[Settings] = {"head_dim": 12, "tie_word_embeddings": True}


class TestQwen3WithBiases(FamilyTests):
    library = "Qwen3"
    settings: ClassVar[Settings] = {"head_dim": 12, "attention_bias": True}
