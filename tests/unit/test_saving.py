"""A saved model is whole or absent, and reads back bit for bit."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nirvana.allocation.allocate import allocate
from nirvana.checkpoints import saving
from nirvana.checkpoints.saving import save
from nirvana.errors import Cancelled, CheckpointError, ModelError, NirvanaError
from nirvana.files import write_bytes
from nirvana.layout import ATTENTION, MLP, Site
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.models.pruning_record import read_record
from nirvana.progress import Progress
from nirvana.saliency.score import score
from nirvana.surgery import prune
from tests.uneven import with_output_biases

IDS = torch.arange(2, 66).view(4, 16)


def pruned(lm: LM, sparsity: float = 0.3) -> LM:
    return prune(lm, allocate(score(lm, None, criterion="magnitude"), sparsity=sparsity, gamma=1.0))


def logits(lm: LM) -> torch.Tensor:
    with torch.inference_mode():
        values: torch.Tensor = lm.weights()(IDS).logits
    return values


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_reads_back_bit_for_bit(
    make_lm: Callable[..., LM], tmp_path: Path, dtype: str, tied: bool
) -> None:
    lm = make_lm(dtype=dtype, tie_word_embeddings=tied)
    for model in (lm, pruned(lm)):
        again = load_model(save(model, tmp_path / "out"), device="cpu", dtype=dtype)
        assert torch.equal(logits(again), logits(model))
        assert again.layout == model.layout
        assert again.is_pruned == model.is_pruned
        assert again.tokenizer.get_vocab() == lm.tokenizer.get_vocab()


def test_pruning_again_keeps_original_indices(tiny_lm: LM, tmp_path: Path) -> None:
    once = load_model(save(pruned(tiny_lm, 0.2), tmp_path / "once"), device="cpu")
    twice = pruned(once, 0.2)
    record = read_record(save(twice, tmp_path / "twice"))
    assert record is not None
    assert record.base_hash == once.base_hash == tiny_lm.hash
    assert set(record.kept) == set(tiny_lm.layout)
    for site, kept in record.kept.items():
        assert set(kept) <= set(once.kept[site])
        part = tiny_lm.family.slices(tiny_lm.settings, site)[0]
        place = site.layer
        dense: Any = tiny_lm.weights().model.layers[place].get_submodule(part.module).weight
        small: Any = twice.weights().model.layers[place].get_submodule(part.module).weight
        rows = [row for unit in kept for row in range(unit * part.size, (unit + 1) * part.size)]
        assert torch.equal(dense[rows], small)


def test_the_config_lists_the_layers_that_differ(tiny_lm: LM, tmp_path: Path) -> None:
    small = pruned(tiny_lm)
    config = json.loads((save(small, tmp_path / "out") / "config.json").read_text())
    assert config["allow_global_per_layer_attribute_access"] is True
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 8)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    for layer in range(3):
        record = config["per_layer_config"].get(str(layer), {})
        groups, neurons = (small.layout[Site("decoder", layer, module)].units for module in (ATTENTION, MLP))
        assert record.get("num_key_value_heads", 2) == groups
        assert record.get("num_attention_heads", 4) == 2 * groups
        assert record.get("intermediate_size", 48) == neurons


def test_scaled_rotary_positions_survive(make_lm: Callable[..., LM], tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 5000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    lm = make_lm(rope_parameters=scaling)
    again = load_model(save(lm, tmp_path / "out"), device="cpu")
    assert torch.equal(logits(again), logits(lm))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == 5000.0
    assert config["rope_scaling"]["factor"] == 8.0


def test_large_models_are_saved_in_shards(tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "SHARD_BYTES", 40_000)
    folder = save(tiny_lm, tmp_path / "out")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert torch.equal(logits(load_model(folder, device="cpu")), logits(tiny_lm))


def test_saving_replaces_a_checkpoint_and_nothing_else(tiny_lm: LM, tmp_path: Path) -> None:
    folder = save(tiny_lm, tmp_path / "out")
    small = pruned(tiny_lm)
    save(small, folder)
    assert torch.equal(logits(load_model(folder, device="cpu")), logits(small))
    save(tiny_lm, folder)
    assert read_record(folder) is None
    (folder / "thesis").mkdir()
    with pytest.raises(CheckpointError, match="was not changed"):
        save(small, folder)
    assert (folder / "thesis").is_dir()
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="was not changed"):
        save(tiny_lm, notes)
    with pytest.raises(CheckpointError, match="was not changed"):
        save(tiny_lm, notes / "notes.txt")
    assert (notes / "notes.txt").read_text() == "mine"
    (notes / "config.json").write_text("{}")  # of a project, say
    with pytest.raises(CheckpointError, match="was not changed"):
        save(tiny_lm, notes)
    assert (notes / "notes.txt").read_text() == "mine"


def test_files_can_be_read_by_whom_the_system_lets_read_new_files(tiny_lm: LM, tmp_path: Path) -> None:
    write_bytes(tmp_path / "written", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    files = [tmp_path / "written", *save(tiny_lm, tmp_path / "out").iterdir()]
    assert {file.stat().st_mode for file in files} == {(tmp_path / "plain").stat().st_mode}


def test_a_full_disk_leaves_what_was_there(tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tiny_lm, tmp_path / "out")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(CheckpointError, match="No space left"):
            save(pruned(tiny_lm), target)
    assert [item.name for item in tmp_path.iterdir() if item.name != "home"] == ["out"]
    assert torch.equal(logits(load_model(folder, device="cpu")), logits(tiny_lm))


def test_cancelling_leaves_nothing(tiny_lm: LM, tmp_path: Path) -> None:
    def cancel(report: Progress) -> None:
        if report.done == report.total:
            raise Cancelled

    with pytest.raises(Cancelled):
        save(tiny_lm, tmp_path / "out", progress=cancel)
    assert [item.name for item in tmp_path.iterdir() if item.name != "home"] == []


def test_an_unloaded_model_cannot_be_saved(make_lm: Callable[..., LM], tmp_path: Path) -> None:
    lm = make_lm()
    lm.unload()
    with pytest.raises(ModelError, match="Load the model again"):
        save(lm, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"base_layers": 2},
        {"base_layers": {"encoder": 3}},
        {"kept": {}},
        {"kept": None},
    ],
)
def test_a_damaged_record_is_refused(tiny_lm: LM, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = save(pruned(tiny_lm), tmp_path / "out")
    record = json.loads((folder / "pruning.json").read_text())
    (folder / "pruning.json").write_text(json.dumps(record | change))
    with pytest.raises(CheckpointError, match=r"pruning\.json"):
        load_model(folder)


@pytest.mark.parametrize("units", [[], [5, 3], [0, 48], [-1, 4]])
def test_a_record_of_impossible_units_is_refused(tiny_lm: LM, tmp_path: Path, units: list[int]) -> None:
    folder = save(pruned(tiny_lm), tmp_path / "out")
    record = json.loads((folder / "pruning.json").read_text())
    record["kept"]["decoder.1.mlp"] = units
    (folder / "pruning.json").write_text(json.dumps(record))
    with pytest.raises(NirvanaError, match=r"decoder\.1\.mlp"):
        load_model(folder)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["decoder.0.attention"], "disagree about layer 2"),  # which has one at its MLP
        (["decoder.0.attention", "decoder.1.mlp", "decoder.2.mlp"], "disagree about layer 1"),
        (["decoder.9.mlp"], r"decoder\.9\.mlp, which is not in the model"),
        (["decoder.0.attention"] * 2, r"decoder\.0\.attention, which .* has one already"),
        (["attention"], "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_record_that_lies_about_output_biases_is_refused(
    tiny_lm: LM, tmp_path: Path, sites: list[str] | None, message: str
) -> None:
    folder = save(with_output_biases(pruned(tiny_lm)), tmp_path / "out")
    record = json.loads((folder / "pruning.json").read_text())
    assert record["output_biases"] == ["decoder.0.attention", "decoder.2.mlp"]
    (folder / "pruning.json").write_text(json.dumps(record | {"output_biases": sites}))
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["decoder.0.attention"], r"layers\.2\.mlp\.down_proj\.bias are not expected"),
        (["decoder.0.attention", "decoder.1.mlp", "decoder.2.mlp"], r"layers\.1\.mlp\.down_proj\.bias are missing"),
    ],
)
def test_output_biases_that_the_weights_do_not_have_are_refused(
    tiny_lm: LM, tmp_path: Path, sites: list[str], message: str
) -> None:
    folder = save(with_output_biases(pruned(tiny_lm)), tmp_path / "out")
    for name, changes in (("pruning.json", {"output_biases": sites}), ("config.json", {"per_layer_config": None})):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    "layer",
    [
        {"intermediate_size": 7},
        {"num_key_value_heads": 2, "num_attention_heads": 4, "intermediate_size": 40},
        {},
        ["no record"],
        None,
    ],
)
def test_a_config_whose_layers_are_not_those_of_the_record_is_refused(tiny_lm: LM, tmp_path: Path, layer: Any) -> None:
    folder = save(pruned(tiny_lm), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    config["per_layer_config"]["1"] = layer
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="disagree about layer 1 of the decoder"):
        load_model(folder)


def test_the_layers_of_a_config_that_transformers_wrote_again_are_known(tiny_lm: LM, tmp_path: Path) -> None:
    from transformers import AutoConfig

    folder = save(pruned(tiny_lm), tmp_path / "out")
    before = logits(load_model(folder, device="cpu"))
    AutoConfig.from_pretrained(folder).save_pretrained(folder)
    assert torch.equal(logits(load_model(folder, device="cpu")), before)
