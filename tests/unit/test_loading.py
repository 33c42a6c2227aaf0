"""Loading: what is found, what is refused before and while weights are read, and that nothing from a model is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from nirvana.checkpoints.saving import save
from nirvana.checkpoints.uniform import export_uniform
from nirvana.errors import CheckpointError, ModelError, NirvanaError
from nirvana.models import loading
from nirvana.models.inspection import inspect_model
from nirvana.models.limits import check_fits
from nirvana.models.lm import LM
from nirvana.models.loading import load_model, resolve_device
from nirvana.progress import Progress
from nirvana.surgery import prune
from tests.uneven import uneven_plan


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_folder_is_loaded_ready_to_use(tiny_folder: Path) -> None:
    lm = load_model(tiny_folder)
    model = lm.weights()
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert lm.layout.parameters == sum(p.numel() for p in model.parameters())
    assert lm.weight_bytes == sum(p.numel() * p.itemsize for p in model.parameters())
    assert inspect_model(str(tiny_folder)).layout == lm.layout
    assert not lm.is_pruned
    assert (str(lm.device), lm.dtype) == (str(resolve_device("auto")), next(model.parameters()).dtype)


def test_weights_are_those_that_the_library_reads(tiny_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    ids = torch.arange(2, 40).view(2, -1)
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(tiny_folder)(ids).logits
        found = load_model(tiny_folder, device="cpu").weights()(ids).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_come_in_the_dtype_asked_for(tiny_folder: Path, dtype: str) -> None:
    lm = load_model(tiny_folder, device="cpu", dtype=dtype)
    assert {p.dtype for p in lm.weights().parameters()} == {getattr(torch, dtype)}
    assert lm.weights().config.dtype == lm.dtype


def test_sharded_weights_are_read_through_their_index(folder: Path) -> None:
    whole = load_model(folder, device="cpu")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    save_file({"stray": torch.ones(1)}, folder / "consolidated.safetensors")
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    again = load_model(folder, device="cpu")
    assert all(
        torch.equal(a, b) for a, b in zip(*(m.weights().state_dict().values() for m in (whole, again)), strict=True)
    )
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors"):
        load_model(folder)


def test_the_hash_names_the_weights_and_is_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_model(folder).hash
    assert len(first) == 64
    moved = folder.with_name("moved")
    shutil.copytree(folder, moved)
    assert load_model(moved).hash == first
    monkeypatch.setattr("nirvana.models.hashing.CHUNK", None)  # reading the file again would fail
    assert load_model(folder).hash == first
    monkeypatch.undo()
    edit_weights(moved, lambda tensors: tensors["model.norm.weight"].add_(1))
    assert load_model(moved).hash != first


def test_no_other_weights_are_taken_for_those_that_were_read(folder: Path) -> None:
    lm = load_model(folder)
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"].add_(1))
    with pytest.raises(ModelError, match="have changed"):
        _ = lm.hash
    lm = load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="have changed"):
        _ = lm.hash


def test_an_index_that_names_no_files_is_refused(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"model.norm.weight": 1}}')
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(folder)


def test_unloading_gives_the_weights_back(make_lm: Callable[..., LM]) -> None:
    lm = make_lm(hidden_size=256, intermediate_size=16384, num_hidden_layers=4)
    process = psutil.Process()
    before = process.memory_info().rss
    lm.unload()
    assert before - process.memory_info().rss > lm.weight_bytes / 2
    assert lm.layout.parameters > 0
    assert len(lm.tokenizer) > 0
    with pytest.raises(ModelError, match="Load the model again"):
        lm.weights()


def test_reading_weights_can_be_stopped(tiny_folder: Path) -> None:
    def stop(report: Progress) -> None:
        if report.done == 3:
            raise NirvanaError("stop")

    with pytest.raises(NirvanaError, match="stop"):
        load_model(tiny_folder, progress=stop)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "smollm2-135m"),
        ("no-such-model", "smollm2-135m"),
        ("./no/such/folder", "no folder"),
        ("missing.gguf", "no file"),
        ("nobody/nothing", "hub"),
        ("~nobody-of-that-name/model", "cannot be opened"),
        ("x" * 300, "cannot be opened"),
    ],
)
def test_unknown_models_are_refused_with_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(name)
    assert caught.value.hint


@pytest.fixture
def put_on_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], None]:
    """`put_on_hub(folder, "owner/name")`: the folder lies in the hub's local cache, as after a download."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder: Path, name: str) -> None:
        place, commit = tmp_path / "hub" / f"models--{name.replace('/', '--')}", "0123456789abcdef" * 2 + "01234567"
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(commit)

    return put


def test_a_pruned_checkpoint_on_the_hub_is_known_by_its_record(
    tiny_folder: Path, tmp_path: Path, put_on_hub: Callable[[Path, str], None]
) -> None:
    dense = load_model(tiny_folder, device="cpu")
    small = prune(dense, uneven_plan(dense))
    put_on_hub(save(small, tmp_path / "small"), "owner/small")
    put_on_hub(tiny_folder, "owner/dense")
    again = load_model("owner/small", device="cpu")
    assert again.layout == inspect_model("owner/small").layout == small.layout
    assert again.base_hash == dense.hash and again.source.base == "tiny" and again.source.name == "owner/small"
    expected, found = small.weights().state_dict(), again.weights().state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not load_model("owner/dense", device="cpu").is_pruned


def test_a_record_on_the_hub_that_lies_is_refused_before_any_weight_is_fetched(
    tiny_folder: Path, tmp_path: Path, put_on_hub: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load_model(tiny_folder, device="cpu")
    folder = save(prune(lm, uneven_plan(lm)), tmp_path / "small")
    record = json.loads((folder / "pruning.json").read_text())
    (folder / "pruning.json").write_text(json.dumps(record | {"base_layers": {"decoder": 2}}))
    put_on_hub(folder, "owner/small")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("weights were fetched"))
    with pytest.raises(CheckpointError, match=r"pruning\.json"):
        load_model("owner/small")


def test_generation_settings_are_carried_along_as_they_are(folder: Path, tmp_path: Path) -> None:
    settings = {"eos_token_id": [1, 7], "temperature": 0.6, "repetition_penalty": 1.3, "_from_model_config": True}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    lm = load_model(folder, device="cpu")
    assert lm.weights().generation_config.repetition_penalty == 1.3
    small = prune(lm, uneven_plan(lm))
    for place in (
        save(small, tmp_path / "small"),
        save(lm, tmp_path / "same"),
        export_uniform(small, tmp_path / "wide"),
    ):
        assert json.loads((place / "generation_config.json").read_text()) == settings
        assert load_model(place, device="cpu").weights().generation_config.eos_token_id == [1, 7]


def test_no_generation_settings_are_made_up(folder: Path, tmp_path: Path) -> None:
    (folder / "generation_config.json").unlink()
    lm = load_model(folder, device="cpu")
    small = prune(lm, uneven_plan(lm))
    for place in (save(small, tmp_path / "small"), export_uniform(small, tmp_path / "wide")):
        assert not (place / "generation_config.json").exists()
        assert load_model(place, device="cpu").weights().generation_config.eos_token_id == 1  # of config.json


@pytest.mark.parametrize("content", ["{", "[1]", '{"cache_implementation": 3}'])
def test_generation_settings_that_cannot_be_read_are_refused(folder: Path, content: str) -> None:
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        load_model(folder)


def test_folders_that_are_not_models_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path)
    shutil.copy(folder / "model.safetensors", folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="pickled weights only"):
        load_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(folder)


def test_pickles_beside_safetensors_are_never_read(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    code = b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR."
    before = load_model(folder, device="cpu")
    for name in ("optimizer.pt", "rng_state.pth", "training_args.bin"):  # no weights
        (folder / name).write_bytes(code)
    lm = load_model(folder, device="cpu")
    assert lm.hash == before.hash
    for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth", "pytorch_model-00001-of-00002.bin"):
        (folder / name).write_bytes(code)
        with pytest.raises(ModelError, match=f"twice.* {name}") as caught:
            load_model(folder, device="cpu")
        assert "Move the pickled files" in caught.value.hint
        (folder / name).unlink()
    (folder / "pytorch_model.bin").write_bytes(code)
    with pytest.raises(CheckpointError, match="was not changed"):
        save(lm, folder)
    assert (folder / "pytorch_model.bin").exists() and not trap.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(folder, lambda tensors: tensors[name].view(-1)[77:78].fill_(value))
    with pytest.raises(ModelError, match=name):
        load_model(folder)


def test_weights_that_overflow_the_dtype_are_refused(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"].fill_(1e6))
    with pytest.raises(ModelError, match=r"model\.norm\.weight .* float16"):
        load_model(folder, dtype="float16")


@pytest.mark.parametrize("keep", [0, 5, 300, -1000, -1])
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 56}, r"layers\.0\.mlp\.down_proj\.weight \(32, 48\) instead of \(32, 56\)"),
        ({"num_hidden_layers": 4}, r"layers\.3\..* are missing"),
        ({"num_hidden_layers": 2}, r"layers\.2\..* are not expected"),
        ({"vocab_size": 300}, r"embed_tokens\.weight \(258, 32\) instead of \(300, 32\)"),
        ({"attention_bias": True}, r"_proj\.bias.* are missing"),
        ({"tie_word_embeddings": False}, r"lm_head\.weight are missing"),
        ({"num_key_value_heads": 4}, r"k_proj\.weight"),
    ],
)
def test_a_config_that_disagrees_with_the_weights_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden = 0"),
        ({"num_hidden_layers": -1}, "layers = -1"),
        ({"num_key_value_heads": 3}, "cannot share"),
        ({"vocab_size": "many"}, r"config\.json"),
        ({"model_type": "bert"}, "'bert' are not supported"),
        ({"model_type": ["llama"]}, "are not supported"),
        ({"hidden_size": float("inf")}, r"config\.json"),
        ({"max_position_embeddings": -5}, "positions = -5"),
        ({"hidden_act": "unheard-of"}, "unheard-of"),
        ({"pad_token_id": 10_000}, "cannot build"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
    ],
)
def test_configs_that_cannot_work_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_config(folder, intermediate_size=1 << 20, num_hidden_layers=1000, hidden_size=1 << 14, head_dim=64)
    monkeypatch.setattr(loading, "read_tensors", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ModelError, match="GiB free") as caught:
        load_model(folder)
    assert "bfloat16" in caught.value.hint


def test_the_limit_is_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nirvana.models.limits.available_memory", lambda _: 1000)
    check_fits(900, "cpu", "small")
    with pytest.raises(ModelError, match="big needs"):
        check_fits(1001, "cpu", "big")


def test_code_that_comes_with_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    (folder / "modelling.py").write_text(f"from pathlib import Path\nPath({str(trap)!r}).touch()\nclass Model: pass\n")
    edit_config(folder, auto_map={"AutoConfig": "modelling.Model", "AutoModelForCausalLM": "modelling.Model"})
    lm = load_model(folder, device="cpu")
    assert type(lm.weights()).__name__ == "LlamaForCausalLM"
    assert not trap.exists()


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(folder)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cuda:999", "cpu:3", "tpu"])
def test_devices_that_are_not_there_are_refused(tiny_folder: Path, device: str) -> None:
    with pytest.raises(ModelError, match=device):
        load_model(tiny_folder, device=device)


def test_an_unknown_dtype_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="float32, bfloat16, float16"):
        load_model(tiny_folder, dtype="int4")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a gguf file at all" * 100])
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.gguf is not a readable GGUF"):
        load_model(file)


@pytest.mark.smollm2
def test_smollm2_says_that_its_origin_is_four_bit(smollm2: LM) -> None:
    assert smollm2.source.note == "4-bit origin"
    assert smollm2.layout.parameters == sum(p.numel() for p in smollm2.weights().parameters()) == 134_515_008
    assert smollm2.layout.prunable == 106_168_320


@pytest.mark.smollm2
def test_smollm2_continues_english(smollm2: LM) -> None:
    ids = smollm2.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        best = int(np.argmax(smollm2.weights()(ids).logits[0, -1].numpy()))
    assert smollm2.tokenizer.convert_ids_to_tokens(best) == "ĠParis"


@pytest.mark.gpu
def test_a_model_can_live_on_an_accelerator(tiny_folder: Path, accelerator: str) -> None:
    lm = load_model(tiny_folder, device=accelerator)
    assert lm.device.type == accelerator
    assert {p.device.type for p in lm.weights().parameters()} == {accelerator}
