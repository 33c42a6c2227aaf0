"""T5 with and without gates, tied and not; mT5; ByT5. Each block of each stack loses other heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from nirvana.allocation.allocate import allocate
from nirvana.calibration.sets import CalibrationSet
from nirvana.checkpoints.saving import save
from nirvana.checkpoints.sizes import padding_note
from nirvana.checkpoints.uniform import export_uniform
from nirvana.checkpoints.verification import verify_export
from nirvana.errors import CheckpointError
from nirvana.files import read_json, write_json
from nirvana.layout import KV_GROUP, Site
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.plan import PruningPlan
from nirvana.saliency.score import score
from nirvana.surgery import prune
from tests.conftest import byte_tokenizer
from tests.families.base import FamilyTests, Settings, library_logits, some_plan
from tests.uneven import with_output_biases

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

    @pytest.mark.parametrize("heads", [((0,), (2,)), ((0, 2), (2, 3), (3,))], ids=str)
    def test_a_uniform_checkpoint_has_the_union_of_heads_in_both_stacks(
        self, lm: LM, calibration: CalibrationSet, tmp_path: Path, heads: tuple[tuple[int, ...], ...]
    ) -> None:
        """The decoder keeps one head in each block, always the same."""
        kept: dict[Site, np.ndarray] = {}
        for site, place in lm.layout.items():
            units = {"attention": (1,), "cross_attention": (site.layer,), "mlp": range(20 - site.layer)}[site.module]
            if site.stack == "encoder" and place.kind == KV_GROUP:
                units = heads[site.layer % len(heads)]
            kept[site] = np.array(units)
        small = prune(lm, PruningPlan(kept, lm.layout, requested=0.5, gamma=1.0))
        folder = export_uniform(small, tmp_path / "uniform")
        config = read_json(folder / "config.json")
        union = len({head for block in heads for head in block})
        assert (config["num_heads"], config["d_ff"], config["d_kv"]) == (union, 20, 6)
        again, expected = load_model(folder, device="cpu"), library_logits(small, calibration)
        assert np.abs(library_logits(again, calibration) - expected).max() < 1e-5 * np.abs(expected).max()
        note = (folder / "README.md").read_text()
        assert f"It has {union} KV groups in each layer instead of at most {max(map(len, heads))}: the blocks" in note

    def test_a_record_that_names_other_heads_is_refused(self, pruned: LM, tmp_path: Path) -> None:
        """As many, so every weight has its shape; but they would read the position biases of others."""
        folder = save(pruned, tmp_path / "pruned")
        record = read_json(folder / "pruning.json")
        kept = record["kept"]["encoder.1.attention"]
        others = sorted(set(range(4)) - set(kept))[: len(kept)]
        record["kept"]["encoder.1.attention"] = others
        write_json(folder / "pruning.json", record)
        assert len(others) == len(kept) and others != kept
        with pytest.raises(CheckpointError, match="disagree about layer 1 of the encoder"):
            load_model(folder)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_is_saved_bit_for_bit(self, folder: Path, tmp_path: Path, dtype: str) -> None:
        """The library holds `wo` in float32 where all else is float16, and a bias need not be a float16 number."""
        lm = load_model(folder, device="cpu", dtype=dtype)
        small = with_output_biases(prune(lm, some_plan(lm, seed=1)))
        wide = {name.split(".")[-2] for name, p in small.weights().named_parameters() if p.dtype == torch.float32}
        assert wide == (lm.family.kept_in_float32 if dtype == "float16" else set())
        assert verify_export(small, save(small, tmp_path / "pruned")).difference == 0

    def test_the_card_says_which_transformers_reads_it(self, pruned: LM, tmp_path: Path) -> None:
        folder = save(pruned, tmp_path / "pruned")
        card = " ".join((folder / "README.md").read_text().split())
        assert (
            '`pip install "transformers>=5.15"`' in card and "including all of transformers 4, cannot load it" in card
        )
        assert 'require_version("transformers>=5.15"' in (folder / "modeling_pruned.py").read_text()
        assert "transformers 4" not in (export_uniform(pruned, tmp_path / "uniform") / "README.md").read_text()

    def test_special_tokens_are_saved_under_a_name_that_transformers_4_knows(self, lm: LM, tmp_path: Path) -> None:
        folder = save(lm, tmp_path / "saved")
        settings, again = read_json(folder / "tokenizer_config.json"), load_model(folder, device="cpu").tokenizer
        assert not isinstance(settings.get("extra_special_tokens"), list)
        assert again.all_special_tokens == lm.tokenizer.all_special_tokens
        assert len(again.all_special_tokens) >= SENTINELS

    def test_equal_widths_lose_nothing_by_filling_up(self, lm: LM, calibration: CalibrationSet, tmp_path: Path) -> None:
        plan = allocate(score(lm, None, criterion="magnitude"), sparsity=0.4, gamma=1.0, uniform=True)
        small = prune(lm, plan)
        assert padding_note(small.layout, small.kept) == ""
        again = load_model(export_uniform(small, tmp_path / "uniform"), device="cpu")
        assert again.layout.prunable == small.layout.prunable < lm.layout.prunable
        expected = library_logits(small, calibration)
        assert np.abs(library_logits(again, calibration) - expected).max() < 1e-5 * np.abs(expected).max()


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
