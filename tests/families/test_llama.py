"""Llama with one KV head a query head, with shared ones, with a single one; and Mistral."""

from __future__ import annotations

from typing import ClassVar

from tests.families.base import FamilyTests, Settings


class TestLlamaMultiHead(FamilyTests):
    library = "Llama"
    plain_output_biases = True
    settings: ClassVar[Settings] = {"num_key_value_heads": 4}


class TestLlamaGroupedQuery(FamilyTests):
    library = "Llama"
    plain_output_biases = True
    settings: ClassVar[Settings] = {"tie_word_embeddings": True, "head_dim": 12}


class TestLlamaMultiQuery(FamilyTests):
    library = "Llama"
    plain_output_biases = True
    settings: ClassVar[Settings] = {"num_key_value_heads": 1}


class TestLlamaWithBiases(FamilyTests):
    library = "Llama"
    plain_output_biases = True
    settings: ClassVar[Settings] = {"attention_bias": True, "mlp_bias": True}


class TestMistral(FamilyTests):
    """Its window is shorter than the samples, so that it matters."""

    library = "Mistral"
    settings: ClassVar[Settings] = {"sliding_window": 6}
