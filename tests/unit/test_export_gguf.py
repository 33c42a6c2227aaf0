"""GGUF exports hold what llama.cpp needs, and what was not verified with it is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from nirvana.checkpoints.gguf_export import export_gguf
from nirvana.checkpoints.gguf_tokenizer import value_of
from nirvana.checkpoints.saving import checkpoint_config
from nirvana.checkpoints.verification import verify_export
from nirvana.errors import Cancelled, CheckpointError, ModelError, NirvanaError
from nirvana.layout import KV_GROUP, NEURON
from nirvana.models.gguf_names import gguf_name, library_name, rotary_halves, rotary_pairs
from nirvana.models.gguf_own import KEY
from nirvana.models.inspection import inspect_model
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.progress import Progress
from nirvana.surgery import prune
from tests.families.gguf_writing import write_gguf
from tests.families.test_sources import tiny
from tests.gguf_models import FORMS, lm_with_pairs
from tests.interop.transformers4 import SCALED, logits
from tests.uneven import equal_plan, uneven_plan, with_output_biases, write_family_model


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> LM:
    path = write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "llama", tiny("Llama", num_hidden_layers=3))
    return load_model(path, device="cpu")


def source_file(lm: LM) -> Path:
    assert lm.source.path is not None
    return lm.source.path


@pytest.fixture(scope="module")
def small(dense: LM) -> LM:
    return prune(dense, uneven_plan(dense))


def test_every_layer_has_its_own_sizes(small: LM, tmp_path: Path) -> None:
    reader = GGUFReader(str(export_gguf(small, tmp_path / "out.gguf")))
    groups = [small.layout[site].units for site in small.layout.pool(KV_GROUP)]
    widths = [small.layout[site].units for site in small.layout.pool(NEURON)]
    assert len(set(groups)) > 1 and len(set(widths)) > 1
    assert value_of(reader, "general.architecture") == "deci"
    assert value_of(reader, "deci.attention.head_count_kv") == groups
    assert value_of(reader, "deci.attention.head_count") == [2 * count for count in groups]
    assert value_of(reader, "deci.feed_forward_length") == widths
    assert value_of(reader, "deci.rope.freq_base") == 10_000.0


def test_the_tokenizer_is_the_sources(dense: LM, small: LM, tmp_path: Path) -> None:
    source = GGUFReader(str(source_file(dense)))
    reader = GGUFReader(str(export_gguf(small, tmp_path / "out.gguf")))
    keys = [key for key in source.fields if key.startswith("tokenizer.")]
    assert "tokenizer.ggml.merges" in keys
    for key in keys:
        assert value_of(reader, key) == value_of(source, key)
        assert reader.fields[key].types == source.fields[key].types


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "F16"), ("bfloat16", "BF16"), ("float32", "F32")])
def test_the_file_holds_every_weight_in_its_dtype(small: LM, tmp_path: Path, dtype: str, kind: str) -> None:
    path = export_gguf(small, tmp_path / "out.gguf", dtype=dtype)
    found = verify_export(small, path)
    assert found.difference == 0 if dtype == "float32" else 0 < found.difference < 0.1 * found.scale
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(str(path)).tensors}
    assert {types[name] for name in types if name.endswith("norm.weight")} == {"F32"}
    assert {types[name] for name in types if not name.endswith("norm.weight")} == {kind}


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    model = tiny("Llama", tie_word_embeddings=True)
    lm = load_model(write_gguf(tmp_path / "tied.gguf", "llama", model), device="cpu")
    reader = GGUFReader(str(export_gguf(prune(lm, uneven_plan(lm)), tmp_path / "out.gguf")))
    names = [tensor.name for tensor in reader.tensors]
    assert "token_embd.weight" in names and "output.weight" not in names


def test_a_dense_model_and_a_shorter_one_are_written_too(dense: LM, tmp_path: Path) -> None:
    shorter = prune(dense, uneven_plan(dense, removed_layers=(("decoder", 1),)))
    for lm, layers in ((dense, 3), (shorter, 2)):
        path = export_gguf(lm, tmp_path / "out.gguf", dtype="float32")
        assert verify_export(lm, path).difference == 0
        architecture = "llama" if lm is dense else "deci"  # of equal layers
        assert value_of(GGUFReader(str(path)), f"{architecture}.block_count") == layers


def test_rotated_rows_pair_the_halves_of_each_head() -> None:
    rows = torch.arange(12)  # two heads of six
    assert rotary_pairs(rows, 6).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    matrix = torch.randn(12, 5)
    assert torch.equal(rotary_halves(rotary_pairs(matrix, 6), 6), matrix)


def test_names_are_llama_cpps() -> None:
    assert gguf_name("model.layers.3.self_attn.q_proj.bias") == "blk.3.attn_q.bias"
    assert gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    with pytest.raises(KeyError):
        gguf_name("model.layers.3.self_attn.sinks.weight")
    for name in ("model.layers.12.mlp.down_proj.bias", "lm_head.weight", "model.layers.0.self_attn.k_norm.weight"):
        assert library_name(gguf_name(name)) == name


@pytest.mark.parametrize("form", FORMS)
def test_families_are_written_in_llama_cpps_forms_and_read_back(form: str, tmp_path: Path) -> None:
    library, changes, plan = FORMS[form]
    lm = lm_with_pairs(tmp_path, library, **changes)
    small = prune(lm, plan(lm))
    path = export_gguf(small, tmp_path / "out.gguf")
    reader, architecture = GGUFReader(str(path)), form.split()[0]
    assert value_of(reader, "general.architecture") == architecture
    assert isinstance(value_of(reader, f"{architecture}.feed_forward_length"), list) == (plan is uneven_plan)
    assert verify_export(small, path).difference == 0  # in float32, as its source
    again = load_model(path, device="cpu")
    assert np.array_equal(logits(again), logits(small))
    assert again.layout == small.layout == inspect_model(str(path)).layout
    assert all(np.array_equal(again.kept[site], kept) for site, kept in small.kept.items())
    assert again.base_hash == lm.hash and again.plans == small.plans
    assert again.tokenizer.get_vocab() == lm.tokenizer.get_vocab()
    assert again.tokenizer.eos_token_id == lm.tokenizer.eos_token_id
    twice = export_gguf(again, tmp_path / "twice.gguf")  # with the tokenizer of the file
    assert value_of(GGUFReader(str(twice)), "tokenizer.ggml.merges") == value_of(reader, "tokenizer.ggml.merges")


@pytest.mark.parametrize("splits", ["qwen2", "smollm", "gpt-2", "llama-bpe"])
def test_the_tokenizer_of_a_folder_is_converted(splits: str, tmp_path: Path) -> None:
    lm = lm_with_pairs(tmp_path, "Llama", splits=splits)
    reader = GGUFReader(str(export_gguf(lm, tmp_path / "out.gguf")))
    assert value_of(reader, "tokenizer.ggml.pre") == splits
    tokens, kinds = (value_of(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    vocabulary = lm.tokenizer.get_vocab()
    assert [tokens[index] for index in vocabulary.values()] == list(vocabulary)
    assert kinds == [3, 3] + [1] * (len(vocabulary) - 2) + [5] * 7
    assert (value_of(reader, "tokenizer.ggml.bos_token_id"), value_of(reader, "tokenizer.ggml.eos_token_id")) == (0, 1)
    assert value_of(reader, "tokenizer.ggml.add_bos_token") is False


def test_tokenizers_that_were_not_verified_are_refused(tmp_path: Path) -> None:
    lm = lm_with_pairs(tmp_path, "Llama", splits="other")
    with pytest.raises(CheckpointError, match="Llama cannot be converted to llama") as raised:
        export_gguf(lm, tmp_path / "out.gguf")
    assert "tokenizer_from" in raised.value.hint


@pytest.mark.parametrize(
    ("library", "changes", "plan", "message"),
    [
        ("Qwen2", {}, uneven_plan, "Qwen2 models with layers of uneven sizes"),
        ("Qwen2", {}, equal_plan, "as many query rows as the hidden size, 32, and this model has 16"),
        ("Qwen3", {"tie_word_embeddings": False}, uneven_plan, "an output head of its own"),
        ("Qwen3", {"attention_bias": True}, equal_plan, "A Qwen3 with biases in attention"),
        ("Mistral", {"sliding_window": 16}, uneven_plan, "a window of 16 positions"),
    ],
)
def test_what_llama_cpp_cannot_hold_is_refused_by_name(
    library: str, changes: dict[str, Any], plan: Any, message: str, tmp_path: Path
) -> None:
    lm = load_model(write_family_model(tmp_path / "model", library, **changes), device="cpu")
    with pytest.raises(CheckpointError, match=message):
        export_gguf(prune(lm, plan(lm)), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("form", ["openelm", "qwen3"])
def test_biases_where_llama_cpp_has_none_are_refused(form: str, tmp_path: Path) -> None:
    library, changes, plan = FORMS[form]
    lm = load_model(write_family_model(tmp_path / "model", library, **changes), device="cpu")
    with pytest.raises(CheckpointError, match=f"llama.cpp's {form} has none"):
        export_gguf(with_output_biases(prune(lm, plan(lm))), tmp_path / "out.gguf")


@pytest.mark.parametrize(
    "damage", ["{}", "[1]", "7", '{"config.json": 3}', '{"config.json": "[]"}', "{", '{"config.json": "{}"}']
)
def test_damaged_files_in_the_header_are_refused(dense: LM, tmp_path: Path, damage: str) -> None:
    from gguf import GGUFValueType, GGUFWriter

    path = export_gguf(dense, tmp_path / "out.gguf")
    reader, other = GGUFReader(str(path)), tmp_path / "other.gguf"
    writer = GGUFWriter(str(other), "llama")
    writer.add_key_value(KEY, damage, GGUFValueType.STRING)
    writer.add_uint32("llama.attention.key_length", 8)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(NirvanaError):
        load_model(other, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "is quantised"),
        ({"intermediate_size": 47}, "disagree"),
        ({"model_type": "gpt2"}, "gpt2"),
        ({"num_hidden_layers": 1 << 40}, "layers"),
    ],
)
def test_a_config_in_the_header_is_checked_as_one_in_a_folder(
    dense: LM, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(lm: LM, dtype: str) -> dict[str, Any]:
        return checkpoint_config(lm, dtype) | changes

    monkeypatch.setattr("nirvana.checkpoints.saving.checkpoint_config", changed)
    path = export_gguf(dense, tmp_path / "out.gguf")
    with pytest.raises(NirvanaError, match=message):
        load_model(path, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "'linear'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "'yarn'"),
        ({"rope_parameters": SCALED}, "'llama3'"),
        ({"hidden_act": "gelu"}, "'gelu'"),
    ],
)
def test_settings_that_were_not_verified_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    lm = load_model(write_family_model(tmp_path / "model", "Llama", **changes), device="cpu")
    with pytest.raises(CheckpointError, match=message):
        export_gguf(lm, tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*out.gguf*"))


def test_biases_of_output_projections_are_written_where_they_are(dense: LM, tmp_path: Path) -> None:
    lm = with_output_biases(prune(dense, uneven_plan(dense)))
    path = export_gguf(lm, tmp_path / "out.gguf", dtype="float16")
    biases = {tensor.name: tensor for tensor in GGUFReader(str(path)).tensors if tensor.name.endswith("bias")}
    assert set(biases) == {"blk.0.attn_output.bias", "blk.2.ffn_down.bias"}
    assert {tensor.tensor_type.name for tensor in biases.values()} == {"F32"}
    assert verify_export(lm, path).difference < 0.02 * verify_export(lm, path).scale


def test_a_tokenizer_of_bytes_is_refused(tiny_lm: LM, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="reads single bytes, without merged pairs"):
        export_gguf(tiny_lm, tmp_path / "out.gguf")


def test_a_pruned_folder_takes_the_tokenizer_of_a_named_file(dense: LM, small: LM, tmp_path: Path) -> None:
    from nirvana.checkpoints.saving import save

    again = load_model(save(small, tmp_path / "pruned"), device="cpu")
    path = export_gguf(again, tmp_path / "out.gguf", tokenizer_from=source_file(dense), dtype="float32")
    assert verify_export(again, path).difference == 0
    tokens = [value_of(GGUFReader(str(each)), "tokenizer.ggml.tokens") for each in (path, source_file(dense))]
    assert tokens[0] == tokens[1]


def test_the_tokenizer_of_another_model_is_refused(tiny_lm: LM, dense: LM, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has another vocabulary"):
        export_gguf(tiny_lm, tmp_path / "out.gguf", tokenizer_from=source_file(dense))


def test_a_kind_of_tokenizer_that_was_not_verified_is_refused(
    dense: LM, small: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = source_file(dense).read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(content.replace(b"\x04\x00\x00\x00\x00\x00\x00\x00gpt2", b"\x04\x00\x00\x00\x00\x00\x00\x00bert"))
    with pytest.raises(CheckpointError, match="kind 'bert'"):
        export_gguf(small, tmp_path / "out.gguf", tokenizer_from=other)


def test_weights_that_overflow_float16_are_refused(dense: LM, tmp_path: Path) -> None:
    lm = prune(dense, uneven_plan(dense))
    weight: Any = lm.weights().get_submodule("model.layers.0.mlp.up_proj").weight
    with torch.no_grad():
        weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=re.escape("blk.0.ffn_up.weight") + ".*float16"):
        export_gguf(lm, tmp_path / "out.gguf", dtype="float16")
    assert [item.name for item in tmp_path.iterdir() if item.name != "home"] == []
    assert export_gguf(lm, tmp_path / "out.gguf", dtype="bfloat16").is_file()


@pytest.mark.parametrize("name", ["out.bin", "folder.gguf"])
def test_only_a_gguf_file_is_replaced(small: LM, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(CheckpointError, match=name):
        export_gguf(small, tmp_path / name)


def test_an_unknown_dtype_is_refused(small: LM, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'q4_0'"):
        export_gguf(small, tmp_path / "out.gguf", dtype="q4_0")


def test_cancelling_leaves_what_was_there(small: LM, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"an earlier export")

    def stop(progress: Progress) -> None:
        if progress.done == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        export_gguf(small, target, progress=stop)
    assert target.read_bytes() == b"an earlier export"
    assert sorted(item.name for item in tmp_path.iterdir() if item.name != "home") == ["out.gguf"]


def test_an_unloaded_model_cannot_be_exported(make_lm: Callable[..., LM], dense: LM, tmp_path: Path) -> None:
    lm = prune(dense, uneven_plan(dense))
    lm.unload()
    with pytest.raises(ModelError, match="Load the model again"):
        export_gguf(lm, tmp_path / "out.gguf")


def test_a_changed_file_does_not_verify(small: LM, tmp_path: Path) -> None:
    path = export_gguf(small, tmp_path / "out.gguf")
    content = bytearray(path.read_bytes())
    content[-40:-32] = b"\x00\x3c" * 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="differs from the model"):
        verify_export(small, path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a readable GGUF file"):
        verify_export(small, path)
