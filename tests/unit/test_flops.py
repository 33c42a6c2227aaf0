"""Operations counted by hand on a tiny model, and against what torch counts while the library's forward runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nirvana.allocation.allocate import allocate
from nirvana.calibration.tasks import start_token
from nirvana.evaluation.flops import cache_bytes, decode_flops, prefill_flops
from nirvana.evaluation.speed import cached
from nirvana.models.families.llama import LlamaFamily
from nirvana.models.families.t5 import T5Family
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.saliency.score import score
from nirvana.surgery import prune
from tests.families import test_t5 as makers

LLAMA = {
    "num_hidden_layers": 1,
    "hidden_size": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 2,
    "intermediate_size": 3,
    "vocab_size": 10,
}
T5 = {"num_layers": 1, "num_heads": 1, "d_model": 4, "d_kv": 2, "d_ff": 3, "vocab_size": 10}


def test_a_decoder_counted_by_hand() -> None:
    layout, geometry = LlamaFamily().layout(LLAMA), LlamaFamily().geometry(LLAMA)
    linear = 2 * (4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 3)  # q, k, v, o and three of the MLP, for one token
    head = 2 * 4 * 10
    assert prefill_flops(layout, geometry, batch=1, prompt=5) == 5 * linear + 4 * 4 * 5 * 5 + head
    steps = [linear + 4 * 4 * keys + head for keys in (6, 7)]
    assert decode_flops(layout, geometry, batch=3, prompt=5, new_tokens=3) == 3 * sum(steps)
    assert cache_bytes(layout, geometry, batch=2, prompt=5, new_tokens=3, itemsize=4) == 2 * (2 * 2 * 7) * 4


def test_an_encoder_decoder_counted_by_hand() -> None:
    layout, geometry = T5Family().layout(T5), T5Family().geometry(T5)
    attention, mlp, head = 2 * 4 * (4 * 2), 2 * 2 * (4 * 3), 2 * 4 * 10
    encoder = 5 * (attention + mlp) + 4 * 2 * 5 * 5
    cross = attention // 2 * 5  # keys and values of what the encoder read, once
    step = attention + attention // 2 + mlp + 4 * 2 * 5 + head  # own attention, queries and output of cross-attention
    assert prefill_flops(layout, geometry, batch=1, prompt=5) == encoder + cross + step + 4 * 2 * 1
    assert decode_flops(layout, geometry, batch=1, prompt=5, new_tokens=3) == 2 * step + 4 * 2 * (2 + 3)
    assert cache_bytes(layout, geometry, batch=1, prompt=5, new_tokens=3, itemsize=2) == 2 * 2 * (3 + 5) * 2


def counted(lm: LM, **inputs: Any) -> int:
    """What torch counts in one forward, without the outer product that rotary positions are made by."""
    model: Any = lm.weights()
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:  # whose products torch sees one by one
        model(**inputs, use_cache=True)
    by_module = counter.get_flop_counts()
    rotary = sum(sum(found.values()) for name, found in by_module.items() if name.endswith("rotary_emb"))
    return counter.get_total_flops() - rotary


@pytest.mark.parametrize("pruned", [False, True])
def test_torch_counts_the_same_for_a_decoder(make_lm: Callable[..., LM], pruned: bool) -> None:
    lm = make_lm()
    if pruned:
        lm = prune(lm, allocate(score(lm, None, criterion="magnitude"), sparsity=0.3, gamma=1.0, multiple_of=1))
    geometry = lm.family.geometry(lm.settings)
    tokens = torch.arange(14).reshape(2, 7)
    assert counted(lm, input_ids=tokens, logits_to_keep=1) == prefill_flops(lm.layout, geometry, batch=2, prompt=7)
    with torch.inference_mode():
        before = lm.weights()(input_ids=tokens, use_cache=True)
    step = counted(lm, input_ids=tokens[:, :1], **cached(lm, before))
    assert step == decode_flops(lm.layout, geometry, batch=2, prompt=7, new_tokens=2)


@pytest.mark.parametrize("pruned", [False, True])
def test_torch_counts_the_same_for_an_encoder_decoder(tmp_path: Path, pruned: bool) -> None:
    makers.T5Tests.write(tmp_path)
    lm = load_model(tmp_path, device="cpu")
    if pruned:
        lm = prune(lm, allocate(score(lm, None, criterion="magnitude"), sparsity=0.3, gamma=1.0, multiple_of=1))
    geometry = lm.family.geometry(lm.settings)
    tokens, begin = torch.arange(2, 16).reshape(2, 7), torch.full((2, 1), start_token(lm))
    found = counted(lm, input_ids=tokens, decoder_input_ids=begin)
    assert found == prefill_flops(lm.layout, geometry, batch=2, prompt=7)
    model: Any = lm.weights()
    with torch.inference_mode():
        encoded = model.get_encoder()(input_ids=tokens)
        before = model(encoder_outputs=encoded, decoder_input_ids=begin, use_cache=True)
    step = counted(lm, encoder_outputs=encoded, decoder_input_ids=begin, **cached(lm, before))
    assert step == decode_flops(lm.layout, geometry, batch=2, prompt=7, new_tokens=2)
