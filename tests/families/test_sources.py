"""Families from GGUF files, and the architectures that are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from nirvana.errors import ModelError
from nirvana.models.families.registry import family_of
from nirvana.models.inspection import inspect_model
from nirvana.models.loading import load_model
from tests.families.gguf_writing import gguf_vocabulary, write_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def tiny(library: str, **changes: Any) -> PreTrainedModel:
    import transformers

    settings = {
        "vocab_size": len(gguf_vocabulary()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
    }
    model: PreTrainedModel = getattr(transformers, f"{library}ForCausalLM")(
        getattr(transformers, f"{library}Config")(**{**settings, **changes})
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # which start as zeros
            torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    ("architecture", "library", "changes"),
    [
        ("llama", "Llama", {}),
        ("llama", "Llama", {"attention_bias": True}),
        ("qwen2", "Qwen2", {}),
        ("qwen2", "Qwen2", {"tie_word_embeddings": True}),
        ("qwen3", "Qwen3", {"head_dim": 12}),
    ],
)
def test_a_gguf_file_computes_what_its_model_computes(
    architecture: str, library: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny(library, **changes)
    path = write_gguf(tmp_path / "tiny.gguf", architecture, model)
    preview, lm = inspect_model(str(path)), load_model(path, device="cpu")
    ids = torch.tensor([[3, 5, 8, 200, 17]])
    with torch.inference_mode():
        assert torch.allclose(lm.weights()(ids).logits, model(ids).logits, atol=1e-6)
    assert preview.layout == lm.layout
    assert lm.layout.parameters == sum(p.numel() for p in model.parameters())


def test_a_gguf_file_with_experts_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "experts.gguf", "llama", tiny("Llama"), expert_count=8)
    with pytest.raises(ModelError, match="mixtures of experts"):
        load_model(path)


def test_a_gguf_file_of_another_architecture_is_refused_by_name(tmp_path: Path, own_home: Path) -> None:
    path = write_gguf(tmp_path / "other.gguf", "starcoder2", tiny("Llama"))
    with pytest.raises(ModelError, match="'starcoder2'") as raised:
        load_model(path)
    assert "llama, mistral, mt5, qwen2, qwen3, t5" in raised.value.hint
    assert not (own_home / "cache" / "models").exists(), "nothing was converted"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_factors": True}, "by stored factors"),
        ({"scaling": "linear"}, r"\(linear\)"),
        ({"scaling": "yarn"}, r"\(yarn\)"),
        ({"rope.scale_linear": 2}, r"\(linear\)"),
    ],
)
def test_a_gguf_file_with_scaled_positions_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, own_home: Path
) -> None:
    path = write_gguf(tmp_path / "scaled.gguf", "llama", tiny("Llama"), **changes)
    with pytest.raises(ModelError, match=f"scales its rotary positions ?{message}"):
        load_model(path)
    assert not (own_home / "cache" / "models").exists(), "nothing was converted"
    plain = write_gguf(tmp_path / "plain.gguf", "llama", tiny("Llama"), scaling="none")
    assert load_model(plain, device="cpu").settings["rope_parameters"]["rope_type"] == "default"


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mixtral", "num_local_experts": 8},
        {"model_type": "qwen2_moe", "num_experts": 60},
        {"model_type": "qwen3_moe"},
        {"model_type": "deepseek_v3", "n_routed_experts": 256},
    ],
)
def test_mixtures_of_experts_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=f"'{config['model_type']}' are mixtures of experts"):
        family_of(config)


@pytest.mark.parametrize("model_type", ["gpt2", "bert", None])
def test_other_architectures_are_refused_with_the_list_of_supported_ones(model_type: str | None) -> None:
    with pytest.raises(ModelError, match=repr(model_type)) as raised:
        family_of({"model_type": model_type, "hidden_size": 32})
    assert "llama, mistral, mt5, qwen2, qwen3, t5" in raised.value.hint


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [("llama", (32, 2)), ("mistral", (8, 2)), ("qwen2", (32, 2)), ("qwen3", (32, 128))],
)
def test_what_a_config_leaves_out_is_the_librarys_default(model_type: str, expected: tuple[int, int]) -> None:
    from transformers import CONFIG_MAPPING

    config: dict[str, Any] = {
        "model_type": model_type,
        "num_attention_heads": 32,
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "intermediate_size": 8,
        "vocab_size": 8,
    }
    geometry = family_of(config).geometry(config)
    assert (geometry["kv_heads"], geometry["head_dim"]) == expected
    assert CONFIG_MAPPING[model_type](**config).num_key_value_heads == expected[0]
