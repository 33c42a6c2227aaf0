"""Speed: turns in order, medians and ratios by a made-up clock, and texts that are those of plain decoding."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nirvana.allocation.allocate import allocate
from nirvana.errors import Cancelled, ModelError
from nirvana.evaluation import speed
from nirvana.evaluation.flops import cache_bytes
from nirvana.evaluation.speed import Turn, measure_speed, prompt_tokens, take_turn
from nirvana.evaluation.speed_report import SpeedReport, Spread
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.progress import Progress
from nirvana.saliency.score import score
from nirvana.surgery import prune
from tests.families import test_t5 as makers


@pytest.fixture(scope="module")
def small(tiny_lm: LM) -> LM:
    return prune(tiny_lm, allocate(score(tiny_lm, None, criterion="magnitude"), sparsity=0.3, gamma=1.0, multiple_of=1))


def test_a_spread_is_median_and_quartiles() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 10.0]) == Spread(3.0, 2.0, 4.0, (4.0, 1.0, 2.0, 3.0, 10.0))


def test_models_take_turns_and_the_first_turn_does_not_count(
    tiny_lm: LM, small: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[LM] = []
    seconds = itertools.chain([(9.0, 9.0)] * 2, [(1.0, 3.0), (0.5, 1.0)] * 2, [(4.0, 6.0), (1.0, 3.0)])

    def turn(lm: LM, tokens: torch.Tensor, new_tokens: int, step: Any) -> Turn:
        seen.append(lm)
        return Turn(*next(seconds), None)

    monkeypatch.setattr(speed, "take_turn", turn)
    found = measure_speed({"dense": tiny_lm, "pruned": small}, batch=2, prompt=10, new_tokens=4, repeats=3)
    assert seen == [tiny_lm, small] * 4
    dense, pruned = found.models["dense"], found.models["pruned"]
    assert dense.prefill.values == (20.0, 20.0, 5.0) and dense.prefill.median == 20.0
    assert dense.decode.values == (2.0, 2.0, 1.0) and dense.first_token.median == 1.0
    assert pruned.decode.median == 6.0 and pruned.decode.low == 4.0
    assert found.ratio("pruned", "prefill").values == (2.0, 2.0, 4.0)
    assert found.ratio("pruned", "first_token").values == (2.0, 2.0, 4.0)
    assert found.ratio("pruned", "decode").values == (3.0, 3.0, 2.0)
    assert found.ideal("pruned", "decode") == dense.decode_flops / pruned.decode_flops > 1


def test_a_turn_is_timed_from_the_prompt_to_the_first_token_and_on(
    tiny_lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([10.0, 12.5, 16.0])
    monkeypatch.setattr(speed, "clock", lambda: next(ticks))
    steps: list[int] = []
    turn = take_turn(tiny_lm, prompt_tokens(tiny_lm, 1, 5), 6, lambda: steps.append(1))
    assert turn == Turn(2.5, 3.5, None) and len(steps) == 6


def written(lm: LM, monkeypatch: pytest.MonkeyPatch, new_tokens: int) -> list[int]:
    """The tokens that a turn feeds back, and the last one."""
    model: Any = lm.weights()
    fed: list[int] = []

    def watch(module: Any, arguments: Any, inputs: dict[str, Any], output: Any) -> None:
        fed.append(int(output.logits[0, -1].argmax()))

    handle = model.register_forward_hook(watch, with_kwargs=True)
    take_turn(lm, prompt_tokens(lm, 1, 9), new_tokens, lambda: None)
    handle.remove()
    return fed


def test_what_is_timed_is_greedy_decoding(tiny_lm: LM, small: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    for lm in (tiny_lm, small):
        ids = prompt_tokens(lm, 1, 9)
        for token in written(lm, monkeypatch, 5):
            with torch.no_grad():
                assert token == int(lm.weights()(input_ids=ids).logits[0, -1].argmax())
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def test_an_encoder_decoder_reads_with_its_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makers.T5Tests.write(tmp_path)
    lm = load_model(tmp_path, device="cpu")
    expected: Any = lm.weights()
    output = expected.generate(input_ids=prompt_tokens(lm, 1, 9), max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert written(lm, monkeypatch, 5)[:4] == output[0, 1:5].tolist()
    found = measure_speed({"T5": lm}, prompt=9, new_tokens=3, repeats=1)
    assert found.models["T5"].prefill_flops > found.models["T5"].decode_flops


def test_the_report_says_what_was_measured_and_survives_json(tiny_lm: LM, small: LM) -> None:
    found = measure_speed({"dense": tiny_lm, "pruned": small}, prompt=8, new_tokens=3, repeats=2)
    again = SpeedReport.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    pruned = again.models["pruned"]
    assert pruned.file_bytes == small.weight_bytes < tiny_lm.weight_bytes
    cache = cache_bytes(
        small.layout, small.family.geometry(small.settings), batch=1, prompt=8, new_tokens=3, itemsize=4
    )
    assert not pruned.memory_measured and pruned.memory_bytes == small.weight_bytes + cache
    for words in ("Batch 1", "prompt of 8", "3 new tokens", "2 turns", "float32 on cpu", f"{found.threads} thread"):
        assert words in found.protocol


def test_every_token_is_reported_and_may_cancel(tiny_lm: LM) -> None:
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.done == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        measure_speed({"dense": tiny_lm}, prompt=4, new_tokens=3, repeats=2, progress=stop)
    assert [progress.done for progress in seen] == [0, 1, 2, 3, 3, 4, 5] and seen[0].total == 9


@pytest.mark.parametrize(
    "values", [{"batch": 0}, {"prompt": 0}, {"new_tokens": 1}, {"repeats": 0}, {"prompt": 506, "new_tokens": 7}]
)
def test_what_cannot_be_timed_is_refused(tiny_lm: LM, values: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        measure_speed({"dense": tiny_lm}, **values)


def test_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no model"):
        measure_speed({})


def test_memory_of_an_accelerator_is_measured(make_lm: Callable[..., LM], accelerator: str) -> None:
    if accelerator != "cuda":
        pytest.skip("only CUDA counts what it allocates")
    lm = load_model(str(make_lm().source.path), device="cuda")
    found = measure_speed({"dense": lm}, prompt=8, new_tokens=3, repeats=1).models["dense"]
    assert found.memory_measured and found.memory_bytes > lm.weight_bytes
