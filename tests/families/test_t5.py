"""T5 with and without gates, tied and not; mT5; ByT5. Each block of each stack loses other heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from nirvana.calibration.sets import CalibrationSet
from nirvana.files import read_json, write_json
from nirvana.models.lm import LM
from tests.conftest import byte_tokenizer
from tests.families.base import FamilyTests, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SENTINELS = 12


class T5Tests(FamilyTests):
    library = "T5"
    purpose = "ForConditionalGeneration"
    auto_class = "AutoModelForSeq2SeqLM"
    common: ClassVar[Settings] = {
        "d_model": 32,
        "d_kv": 6,  # not d_model / num_heads
        "d_ff": 48,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    }

    @classmethod
    def tokenizer(cls) -> PreTrainedTokenizerBase:
        tokenizer = byte_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": [f"<extra_id_{i}>" for i in range(SENTINELS)]})
        return tokenizer

    @classmethod
    def shape(cls, model: PreTrainedModel) -> None:
        """Position biases and queries large enough that heads differ in where they look."""
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name:
                nn.init.normal_(parameter, std=2.0)
            elif name.endswith(".q.weight"):
                nn.init.normal_(parameter, std=0.3)
            elif name.endswith("shared.weight"):
                nn.init.normal_(parameter, std=0.6)

    @classmethod
    def sample(cls, lm: LM) -> CalibrationSet:
        """Five samples, 13 tokens to the encoder and 9 to the decoder; one is padded on both sides."""
        draw = np.random.default_rng(3)
        vocabulary = lm.family.geometry(lm.settings)["vocabulary"]
        mask, labels = np.ones((5, 13), np.int64), draw.integers(2, vocabulary, (5, 9))
        mask[2, 8:], labels[2, 6:] = 0, -100
        return CalibrationSet(
            draw.integers(2, vocabulary, mask.shape),
            mask,
            decoder_input_ids=draw.integers(2, vocabulary, labels.shape),
            labels=labels,
        )


class Untied(T5Tests):
    settings: ClassVar[Settings] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

    @classmethod
    def shape(cls, model: PreTrainedModel) -> None:
        super().shape(model)
        library: Any = model
        library.lm_head.weight = nn.Parameter(torch.randn_like(library.shared.weight))

    @classmethod
    def write(cls, folder: Path) -> None:
        """The library says that embeddings are tied, always; in the published configs they are not."""
        super().write(folder)
        config = read_json(folder / "config.json")
        config.pop("scale_decoder_outputs", None)
        write_json(folder / "config.json", config | {"tie_word_embeddings": False})


class TestT5(T5Tests):
    """Ungated and tied: its outputs are scaled before the head."""


class TestT5Gated(Untied):
    """T5 v1.1 and Flan-T5."""


class TestT5GatedTied(T5Tests):
    """As the library builds one anew: gated, not scaled, but tied."""

    settings: ClassVar[Settings] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


class TestMT5(Untied):
    library = "MT5"


class TestByT5(Untied):
    """More encoder than decoder, as in its large models, and a tokenizer that is code."""

    settings: ClassVar[Settings] = {**Untied.settings, "num_layers": 3, "num_decoder_layers": 2}

    @classmethod
    def tokenizer(cls) -> PreTrainedTokenizerBase:
        from transformers import ByT5Tokenizer

        tokenizer: PreTrainedTokenizerBase = ByT5Tokenizer()
        return tokenizer
