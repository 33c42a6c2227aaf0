"""A pruned checkpoint, saved again by transformers alone, loads there and here; it never takes more than its source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nirvana as nv
from nirvana.checkpoints.exporting import size_of
from nirvana.checkpoints.saving import save
from nirvana.errors import CheckpointError
from nirvana.models.inspection import inspect_model
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.surgery import prune
from tests.families import test_t5
from tests.interop.train_with_transformers import try_all
from tests.interop.transformers4 import logits
from tests.uneven import equal_plan, uneven_plan, with_output_biases, write_family_model


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LM]:
    place = tmp_path_factory.mktemp("dense")
    folders = {name: write_family_model(place / name, name) for name in ("Llama", "Qwen3")}
    test_t5.TestT5Gated.write(place / "T5")
    return {name: load_model(folder, device="cpu") for name, folder in (folders | {"T5": place / "T5"}).items()}


@pytest.fixture(scope="module")
def tried(dense: dict[str, LM], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[LM, Path, dict[str, Any]]]:
    """Name -> pruned model, its checkpoint as transformers saved it again, and what transformers computed."""
    place, found = tmp_path_factory.mktemp("round-trip"), {}
    for name, lm in dense.items():
        small = with_output_biases(prune(lm, uneven_plan(lm)))
        answer = try_all(save(small, place / name), train=False)
        found[name] = small, place / f"{name}-saved", answer
    return found


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "T5"])
def test_transformers_saves_and_loads_it_again(tried: dict[str, Any], name: str) -> None:
    _, folder, answer = tried[name]
    assert answer["saved"] == 0
    assert (folder / "modeling_pruned.py").is_file() and not (folder / "pruning.json").exists()


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "T5"])
def test_we_load_it_without_its_record(tried: dict[str, Any], name: str) -> None:
    small, folder, _ = tried[name]
    again = load_model(folder, device="cpu")
    assert np.array_equal(logits(again), logits(small))
    assert again.is_pruned and again.layout == small.layout
    assert inspect_model(str(folder)).layout.sites == small.layout.sites
    assert again.base_hash == again.hash  # the dense model is not known
    for site, kept in again.kept.items():
        assert len(kept) == len(small.kept[site])
        if name == "T5" and site.module != "mlp":
            assert np.array_equal(kept, small.kept[site])  # which the position bias needs
    twice = prune(again, uneven_plan(again, seed=3))
    assert twice.layout.parameters == sum(p.numel() for p in twice.weights().parameters())


@pytest.mark.parametrize("name", ["Llama", "T5"])
def test_eager_attention_gives_the_weights_of_the_kept_heads(tried: dict[str, Any], name: str) -> None:
    small, _, answer = tried[name]
    per_group = 2 if name == "Llama" else 1
    stacks = [[small.layout[site].units * per_group for site in small.layout if site.module == module
               and site.stack == stack] for stack, module in
              ([("decoder", "attention")] if name == "Llama" else
               [("encoder", "attention"), ("decoder", "attention"), ("decoder", "cross_attention")])]  # fmt: skip
    assert answer["heads"] == stacks
    assert answer["attentions_sum_to_one"]
    assert answer["eager"] < 1e-4 * np.abs(logits(small)).max()


def test_a_t5_in_memory_takes_eager_attention(dense: dict[str, LM]) -> None:
    small = prune(dense["T5"], uneven_plan(dense["T5"]))
    expected = logits(small)
    model: Any = small.weights()
    model.set_attn_implementation("eager")
    assert np.abs(logits(small) - expected).max() < 1e-4 * np.abs(expected).max()
    ids = torch.arange(3, 19)[None]
    with torch.inference_mode():
        output: Any = model(input_ids=ids, decoder_input_ids=ids, output_attentions=True)
    assert [weights.shape[1] for weights in output.encoder_attentions] == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("Llama", {"num_key_value_heads": 3}),  # of 2
        ("Llama", {"intermediate_size": 1 << 50}),
        ("Llama", {"intermediate_size": -1}),
        ("Llama", {"num_key_value_heads": "2"}),
        ("Llama", {"num_attention_heads": 3, "num_key_value_heads": 1}),
        ("Llama", []),
        ("T5", {"kept_heads": {"attention": [9]}}),
        ("T5", {"kept_heads": {"attention": [1, 1]}}),
        ("T5", {"kept_heads": [1]}),
    ],
)
def test_impossible_layers_without_a_record_are_refused(
    tried: dict[str, Any], tmp_path: Path, name: str, layer: Any
) -> None:
    config = json.loads((tried[name][1] / "config.json").read_text())
    records = config["per_stack_config"]["encoder"] if name == "T5" else config["per_layer_config"]
    records["0"] = layer
    for file in tried[name][1].iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        load_model(tmp_path, device="cpu")


def bfloat16_lm(place: Path) -> tuple[Path, LM]:
    """A model stored in bfloat16, read in float32."""
    import transformers

    folder = write_family_model(place, "Llama")
    auto: Any = transformers.AutoModelForCausalLM
    auto.from_pretrained(folder, dtype="bfloat16").save_pretrained(folder)
    lm = load_model(folder, device="cpu")
    assert lm.dtype == torch.float32 and lm.source.dtype == "bfloat16"
    return folder, lm


@pytest.mark.parametrize("write", [nv.save, nv.export_uniform])
def test_a_pruned_model_is_stored_in_the_dtype_of_its_source(write: Callable[..., Path], tmp_path: Path) -> None:
    source, lm = bfloat16_lm(tmp_path / "dense")
    small = prune(lm, uneven_plan(lm))
    folder = write(small, tmp_path / "small")
    assert size_of(folder / "model.safetensors") < size_of(source / "model.safetensors")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    again = load_model(folder, device="cpu")
    assert again.source.dtype == "bfloat16"
    tolerance = 0 if write is nv.save else 1e-5 * np.abs(logits(small)).max()  # sums in another order
    assert np.abs(logits(again) - logits(small)).max() <= tolerance
    wide = write(small, tmp_path / "wide", dtype="float32")
    assert size_of(wide / "model.safetensors") > 1.9 * size_of(folder / "model.safetensors")
    assert load_model(wide, device="cpu").source.dtype == "float32"


def test_verification_states_that_weights_were_rounded(tmp_path: Path) -> None:
    _, lm = bfloat16_lm(tmp_path / "dense")
    small = prune(lm, uneven_plan(lm))
    assert nv.export(small, tmp_path / "out").verification.difference == 0
    with torch.no_grad():
        norm: Any = small.weights().get_submodule("model.norm")
        norm.weight.mul_(1 + 2**-12)  # as compensation does
    written = nv.export(small, tmp_path / "out")
    assert "every weight rounded to bfloat16" in written.verification.checks[0]
    assert "code in the folder, bit-equal" in written.verification.checks[1]
    assert 0 < written.verification.difference < 0.05 * written.verification.scale


def test_dtypes_that_cannot_hold_the_weights_are_refused(dense: dict[str, LM], tmp_path: Path) -> None:
    small = prune(dense["Llama"], uneven_plan(dense["Llama"]))
    with pytest.raises(CheckpointError, match="no dtype 'int8'"):
        save(small, tmp_path / "out", dtype="int8")
    with torch.no_grad():
        norm: Any = small.weights().get_submodule("model.norm")
        norm.weight[0] = 1e6
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds values too large for float16"):
        save(small, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
def test_equal_widths_make_a_plain_checkpoint(dense: dict[str, LM], tmp_path: Path, name: str) -> None:
    small = prune(dense[name], equal_plan(dense[name]))
    written = nv.export(small, tmp_path / "out")
    config = json.loads((written.path / "config.json").read_text())
    assert not {"auto_map", "per_layer_config"} & set(config) and not list(written.path.glob("*.py"))
    assert (config["num_key_value_heads"], config["intermediate_size"]) == (1, 20)
    assert config["architectures"] == [f"{name}ForCausalLM"]
    again = load_model(written.path, device="cpu")
    assert again.layout == small.layout and again.dense == small.dense  # pruning.json has the dense sizes
    assert all(np.array_equal(again.kept[site], kept) for site, kept in small.kept.items())
    assert inspect_model(str(written.path)).layout == small.layout
    twice = prune(again, uneven_plan(again, seed=4))
    assert "auto_map" in json.loads((save(twice, tmp_path / "twice") / "config.json").read_text())
    assert np.array_equal(logits(load_model(tmp_path / "twice", device="cpu")), logits(twice))
    answer = try_all(written.path, train=False)
    assert answer["saved"] == 0
    assert np.array_equal(logits(load_model(tmp_path / "out-saved", device="cpu")), logits(small))


@pytest.mark.parametrize("sizes", [{"hidden_size": 8}, {"intermediate_size": -1}, {"intermediate_size": "48"}, [1]])
def test_dense_sizes_that_are_none_are_refused(dense: dict[str, LM], tmp_path: Path, sizes: Any) -> None:
    folder = save(prune(dense["Llama"], equal_plan(dense["Llama"])), tmp_path / "out")
    record = json.loads((folder / "pruning.json").read_text())
    (folder / "pruning.json").write_text(json.dumps(record | {"dense_sizes": sizes}))
    with pytest.raises(CheckpointError, match=r"pruning\.json"):
        load_model(folder, device="cpu")


def test_a_t5_of_equal_widths_keeps_its_code_where_heads_left(dense: dict[str, LM], tmp_path: Path) -> None:
    small = prune(dense["T5"], equal_plan(dense["T5"]))
    folder = save(small, tmp_path / "out")
    assert (folder / "modeling_pruned.py").is_file()
    assert np.array_equal(logits(load_model(folder, device="cpu")), logits(small))
