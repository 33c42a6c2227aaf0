"""Quantised copies: near the original, their bytes counted by hand, measured like any other model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nirvana.allocation.allocate import allocate
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.errors import Cancelled, ModelError
from nirvana.evaluation.perplexity import perplexity
from nirvana.evaluation.quantisation import QuantisedLM, quantise, stored_bytes
from nirvana.evaluation.schemes import SCHEMES
from nirvana.evaluation.speed import measure_speed
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.saliency.score import score
from nirvana.surgery import prune
from tests.families import test_t5 as makers


def errors(lm: LM, other: LM) -> list[float]:
    """Relative errors of the outputs of each linear layer that was quantised."""
    draw = torch.Generator().manual_seed(0)
    before: dict[str, Any] = dict(lm.weights().named_modules())
    found = []
    for name, module in other.weights().named_modules():
        if isinstance(before.get(name), nn.Linear) and type(module) is not nn.Linear:
            inputs = torch.randn(2, 20, before[name].in_features, generator=draw)
            with torch.inference_mode():
                wanted, given = before[name](inputs).double(), module(inputs).double()
            found.append(float((wanted - given).norm() / wanted.norm()))
    return found


@pytest.mark.parametrize("pruned", [False, True])
def test_fewer_bits_are_a_little_further_off(tiny_lm: LM, pruned: bool) -> None:
    lm = tiny_lm
    if pruned:  # widths that no kernel likes
        lm = prune(lm, allocate(score(lm, None, criterion="magnitude"), sparsity=0.3, gamma=1.0, multiple_of=1))
    before = copy.deepcopy(lm.weights().state_dict())
    eight, four = quantise(lm, "int8"), quantise(lm, "int4")
    assert len(errors(lm, eight)) == len(errors(lm, four)) == 21
    assert 0 < max(errors(lm, eight)) < 0.02
    assert 0.02 < min(errors(lm, four)) <= max(errors(lm, four)) < 0.15
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.weights().state_dict().items())
    assert lm.weight_bytes > max(eight.weight_bytes, four.weight_bytes)
    assert eight.layout == lm.layout and eight.dtype == lm.dtype
    assert len({lm.hash, eight.hash, four.hash}) == 3
    assert "int8" in eight.source.note and "bitsandbytes" in eight.source.note


def test_bytes_are_those_that_are_stored(tiny_lm: LM) -> None:
    """3 layers of q (32, 32), k and v (16, 32), o (32, 32), gate and up (48, 32), down (32, 48)."""
    shapes = [(32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48)]
    other = 4 * sum(tiny_lm.layout.other.values())
    weights = sum(rows * columns for rows, columns in shapes)
    mark = torch.empty((), dtype=torch.uint8).nbytes  # the library notes the format of each 8-bit weight
    eight = 3 * (weights + sum(4 * rows + mark for rows, _ in shapes))
    assert quantise(tiny_lm, "int8").weight_bytes == other + eight
    four = quantise(tiny_lm, "int4")
    padded = [(rows, 64) for rows, _ in shapes]  # whole blocks of 64
    scales = sum(4 * rows for rows, _ in padded)
    table = 4 * 16  # of the 16 values that 4 bits stand for
    notes = [
        tensor.nbytes for name, tensor in four.weights().state_dict().items() if name.endswith("bitsandbytes__nf4")
    ]
    assert len(notes) == 21
    assert four.weight_bytes == other + 3 * (
        sum(64 * rows for rows, _ in padded) // 2 + scales + table * len(shapes)
    ) + sum(notes)


def test_bytes_of_an_ordinary_model_are_those_of_its_layout(tiny_lm: LM) -> None:
    assert stored_bytes(tiny_lm.weights()) == tiny_lm.weight_bytes


def test_biases_and_untied_heads_come_along(make_lm: Callable[..., LM]) -> None:
    lm = make_lm(attention_bias=True, mlp_bias=True, tie_word_embeddings=False, seed=2)
    small = quantise(lm, "int8")
    assert max(errors(lm, small)) < 0.02
    biases = {name: value for name, value in lm.weights().state_dict().items() if name.endswith("bias")}
    assert len(biases) == 21
    assert all(torch.equal(value, small.weights().state_dict()[name]) for name, value in biases.items())


def test_a_quantised_model_is_measured_like_any_other(tiny_lm: LM, sample_text: Path) -> None:
    eight = quantise(tiny_lm, "int8")
    dense = perplexity(tiny_lm, load_corpus(str(sample_text)), window=32, max_tokens=512)
    found = perplexity(eight, load_corpus(str(sample_text)), window=32, max_tokens=512)
    assert found.tokens == dense.tokens and found.value != dense.value
    assert found.value == pytest.approx(dense.value, rel=0.05)
    timed = measure_speed({"dense": tiny_lm, "dense int8": eight}, prompt=8, new_tokens=2, repeats=1)
    assert timed.models["dense int8"].file_bytes == eight.weight_bytes


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_the_library_keeps_in_float32_stays(tmp_path: Path, scheme: str) -> None:
    makers.T5Tests.write(tmp_path)
    lm = load_model(tmp_path, device="cpu")
    small = quantise(lm, scheme)
    model: Any = small.weights()
    plain = {name.rpartition(".")[2] for name, module in model.named_modules() if type(module) is nn.Linear}
    assert plain == {"wo", "lm_head"}
    assert 0 < max(errors(lm, small)) < (0.02 if scheme == "int8" else 0.15)
    tokens = torch.arange(2, 22).reshape(2, 10)
    with torch.inference_mode():
        assert model(input_ids=tokens, decoder_input_ids=tokens).logits.isfinite().all()


def test_what_cannot_be_quantised_is_refused(tiny_lm: LM, make_lm: Callable[..., LM]) -> None:
    with pytest.raises(ModelError, match="no quantisation 'int2'"):
        quantise(tiny_lm, "int2")
    small = quantise(tiny_lm)
    assert isinstance(small, QuantisedLM)
    with pytest.raises(ModelError, match="already"):
        quantise(small, "int4")
    gone = make_lm()
    gone.unload()
    with pytest.raises(ModelError, match="not in memory"):
        quantise(gone)


def test_every_layer_is_reported_and_may_cancel(tiny_lm: LM) -> None:
    def stop(progress: Any) -> None:
        assert progress.total == 21
        if progress.done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        quantise(tiny_lm, progress=stop)
