"""Predicted memory: sizes against the library's models on the meta device, and what every estimate must obey."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from nirvana.compensation.statistics import input_widths
from nirvana.errors import ModelError, RunError
from nirvana.estimation.estimate import estimate, subject_of
from nirvana.estimation.recipe import peak_of
from nirvana.estimation.results import Estimate
from nirvana.estimation.steps import STEPS
from nirvana.estimation.work import Speed
from nirvana.evaluation.flops import window_flops
from nirvana.models.families.registry import family_of
from nirvana.models.inspection import describe_config
from nirvana.models.lm import LM
from nirvana.models.sizes import ModelSizes
from nirvana.models.weights import layer_places, linear_layer
from nirvana.reporting.memory import Expected, expected_memory
from nirvana.runs.recipe import Recipe

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "tied": LLAMA | {"tie_word_embeddings": True},
    "qwen2": LLAMA | {"model_type": "qwen2"},
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 32},
    "t5": {
        "model_type": "t5",
        "d_model": 48,
        "d_ff": 96,
        "d_kv": 16,
        "num_heads": 4,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "vocab_size": 300,
        "feed_forward_proj": "gated-gelu",
    },
}
BIG = LLAMA | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "vocab_size": 32_000}


def on_meta(config: dict[str, Any]) -> nn.Module:
    """The library's model of a config, without memory."""
    kind = dict(config)
    library = AutoConfig.for_model(kind.pop("model_type"), **kind)
    with torch.device("meta"):
        maker: Any = AutoModelForSeq2SeqLM if library.is_encoder_decoder else AutoModelForCausalLM
        model: nn.Module = maker.from_config(library)
    return model


def sizes_of(config: dict[str, Any]) -> ModelSizes:
    family = family_of(config)
    return ModelSizes(family.layout(config), family.geometry(config))


def unit_layers(model: Any, config: dict[str, Any]) -> Iterator[tuple[bool, nn.Linear]]:
    """Every linear layer that belongs to units, and whether it is an output projection."""
    family, sizes = family_of(config), sizes_of(config)
    places = layer_places(sizes.layout)
    for site in sizes.layout:
        block = family.blocks(model)[site.stack][places[site.stack, site.layer]]
        for part in family.slices(config, site):
            yield part.dim == 1, linear_layer(block, part)


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_are_those_of_the_librarys_model(name: str) -> None:
    config, model = CONFIGS[name], on_meta(CONFIGS[name])
    sizes, layers = sizes_of(config), list(unit_layers(model, config))
    assert sizes.weight_bytes == sum(weight.numel() for weight in model.parameters()) * 4
    assert list(sizes.input_widths.values()) == [layer.in_features for last, layer in layers if last]
    assert sizes.adapter_inputs == sum(layer.in_features for _, layer in layers)
    assert sizes.adapter_weights(8) == sum(8 * (layer.in_features + layer.out_features) for _, layer in layers)
    counted = sum(layer.weight.numel() for _, layer in layers)
    assert sizes.layout.prunable == counted and sizes.largest_block <= counted


def test_sizes_of_a_loaded_model_are_those_of_its_layout(tiny_lm: LM) -> None:
    assert tiny_lm.sizes.input_widths == input_widths(tiny_lm)
    weights = tiny_lm.weights().parameters()
    assert tiny_lm.sizes.weight_bytes == sum(weight.nbytes for weight in weights) == tiny_lm.weight_bytes


def test_activations_are_those_that_autograd_keeps() -> None:
    config = LLAMA | {"hidden_size": 128, "intermediate_size": 512}
    kind = {key: value for key, value in config.items() if key != "model_type"}
    maker: Any = AutoModelForCausalLM
    model = maker.from_config(AutoConfig.for_model("llama", **kind), attn_implementation="sdpa")
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    tokens, kept = 192, dict[int, int]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = model.model(torch.zeros(2, tokens // 2, dtype=torch.long)).last_hidden_state
    sizes = sizes_of(config)
    assert alive.requires_grad
    estimated = sizes.blocks * sizes.kept_by_block * tokens * 4  # with what a backward pass adds for a moment
    assert sum(kept.values()) < estimated < 1.3 * sum(kept.values())


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config, length = CONFIGS[name], 24
    model, ids = on_meta(config), torch.zeros(1, length, dtype=torch.long, device="meta")
    more = {"decoder_input_ids": ids} if name == "t5" else {}
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, **more)
    sizes = sizes_of(config)
    assert window_flops(sizes.layout, sizes.geometry, length) == counter.get_total_flops()


def peaks(config: dict[str, Any], recipe: Recipe | None = None, **named: Any) -> dict[str, int]:
    """Peak of each step by name."""
    return {step.name.partition(" of ")[0]: step.memory.peak for step in estimate(config, recipe=recipe, **named).steps}


def test_more_layers_and_wider_ones_need_more() -> None:
    before = peaks(BIG)
    assert len(before) > 20
    for change in ({"num_hidden_layers": 12}, {"intermediate_size": 6144}, {"vocab_size": 64_000}):
        after = peaks(BIG | change)
        assert after.keys() == before.keys()
        assert all(after[name] > peak for name, peak in before.items())


def test_more_tokens_never_need_less() -> None:
    small = Recipe().change("calibration", samples=2, length=64, probe_samples=2, probe_length=64)
    small = small.change("recovery", length=64).change("evaluation", window=64).change("prune", samples=2, length=64)
    before, after = peaks(BIG, small), peaks(BIG)
    assert all(after[name] >= peak for name, peak in before.items())
    longer = ("calibrate: 4 sets by KL", "score: nirvana, recompute", "score: taylor, micro-batches", "recover: full")
    assert all(after[name] > before[name] for name in longer)


def test_weights_on_disk_do_not_grow_with_the_layers() -> None:
    deep = BIG | {"num_hidden_layers": 64}
    lazy, deeper = (peaks(config, weights="lazy") for config in (BIG, deep))
    for name in (
        "load",
        "score: nirvana, recompute",
        "score: flap",
        "sensitivity",
        "prune: none",
        "perplexity: windows",
    ):
        assert deeper[name] == pytest.approx(lazy[name], rel=0.01)
    assert deeper["statistics: second moments"] > 5 * lazy["statistics: second moments"], "those of all layers are kept"
    in_memory = peaks(deep)
    assert all(peak < in_memory[name] for name, peak in deeper.items() if name in in_memory)
    assert not any(name.startswith("recover") for name in lazy)


def test_a_config_a_folder_and_a_model_of_the_library_give_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))  # without weights
    kind = {key: value for key, value in LLAMA.items() if key != "model_type"}
    sources = [LLAMA, str(tmp_path), AutoConfig.for_model("llama", **kind)]
    found = [estimate(source, ["load", "score"]) for source in sources]
    assert len({str([step.to_json() for step in each.steps]) for each in found}) == 1
    assert {step.step for step in found[0].steps} == {"load", "score"}


def test_an_estimate_survives_json() -> None:
    found = estimate(LLAMA, speed=Speed(1e12, 1e11))
    assert Estimate.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.peak == max(step.memory.peak for step in found.steps)
    assert {step.step for step in found.steps} == set(STEPS)
    timed = {step.name for step in found.steps if step.basis == "predicted" and step.seconds}
    assert {"score: nirvana, recompute", "statistics: second moments", "load"} <= timed


def test_seconds_grow_with_the_work_and_shrink_with_the_speed() -> None:
    def seconds(speed: Speed, step: str = "score") -> dict[str, float]:
        return {each.name: each.seconds or 0.0 for each in estimate(BIG, step, speed=speed).steps}

    slow, fast = seconds(Speed(1e12, 1e15)), seconds(Speed(1e13, 1e16))
    assert all(fast[name] == pytest.approx(value / 10) for name, value in slow.items())
    assert slow["score: nirvana, recompute"] == pytest.approx(slow["score: nirvana, micro-batches"] * 4 / 3)
    assert slow["score: flap"] == pytest.approx(slow["score: nirvana, micro-batches"] / 3)
    assert all(step.seconds is None for step in estimate(BIG, "score").steps)


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(RunError, match="no step 'dance'"):
        estimate(LLAMA, "dance")
    with pytest.raises(ModelError, match="float8"):
        estimate(LLAMA, dtype="float8")
    with pytest.raises(ModelError, match="encoder"):
        estimate(CONFIGS["t5"], weights="lazy")
    with pytest.raises(ModelError, match="not supported"):
        estimate({"model_type": "rwkv"})


def expected(step: str, recipe: Recipe, free: int) -> Expected:
    found = expected_memory([step], recipe, describe_config(BIG), "cpu", free)
    assert found is not None
    return found


def test_a_page_says_what_fits_and_what_to_do() -> None:
    roomy = expected("saliency", Recipe(), 1 << 40)
    assert roomy.fits and roomy.shortage == ("", "") and not roomy.note
    assert roomy.words.endswith("GB peak of 1.1 TB free")
    assert roomy.largest.settings["strategy"] == "micro-batches"
    tight = expected("saliency", Recipe(), int(roomy.peak * 0.8))
    assert tight.fits and tight.largest.settings["strategy"] == "recompute" and "recomputed" in tight.note
    short = expected("saliency", Recipe(), 100 << 20)
    assert not short.fits
    message, hint = short.shortage
    assert "scoring; 105 MB are free" in message
    assert "fewer or shorter" in hint and "bfloat16" in hint and "weights lazy" in hint
    trains = Recipe().change("recovery", method="full")
    assert "micro-batch" in expected("recover", trains, 100 << 20).shortage[1]
    squares = Recipe().change("prune", compensation="least_squares")
    assert "none" in expected("prune", squares, 100 << 20).shortage[1]


def test_a_job_needs_what_its_largest_step_needs() -> None:
    recipe = Recipe().change("recovery", method="distill")
    subject = subject_of(describe_config(BIG), recipe, "cpu")
    alone = {step: peak_of([step], subject) for step in recipe.steps}
    assert all(each is not None for each in alone.values())
    together = peak_of(recipe.steps, subject)
    assert together == max((each for each in alone.values() if each), key=lambda each: each.memory.peak)
    assert peak_of([], subject) is None
