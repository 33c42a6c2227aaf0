"""Greedy continuations equal taking the most likely token again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

from nirvana.errors import Cancelled, CorpusError, ModelError
from nirvana.evaluation.continuation import continue_prompt
from nirvana.progress import Progress

if TYPE_CHECKING:
    from nirvana.models.lm import LM


def greedy(lm: LM, ids: list[int], count: int) -> str:
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            token = int(lm.weights()(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == lm.tokenizer.eos_token_id:
            break
        ids = [*ids, token]
    return str(lm.tokenizer.decode(ids[start:], skip_special_tokens=True))


@pytest.mark.parametrize("prompt", ["The river", "a", "näive 🦊"])
def test_a_continuation_is_greedy_and_without_the_prompt(tiny_lm: LM, prompt: str) -> None:
    text = continue_prompt(tiny_lm, prompt, max_new_tokens=12)
    assert text == greedy(tiny_lm, tiny_lm.tokenizer(prompt)["input_ids"], 12)
    assert text == continue_prompt(tiny_lm, prompt, max_new_tokens=12)


def test_the_chat_template_is_used_on_request(tiny_lm: LM) -> None:
    ids = tiny_lm.tokenizer("<|user|>Hello</s><|assistant|>")["input_ids"]
    assert continue_prompt(tiny_lm, "Hello", chat=True, max_new_tokens=10) == greedy(tiny_lm, ids, 10)
    assert continue_prompt(tiny_lm, "Hello", chat=True) != continue_prompt(tiny_lm, "Hello")


def test_a_model_without_template_says_so(make_lm: Callable[..., LM]) -> None:
    lm = make_lm()
    lm.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template") as caught:
        continue_prompt(lm, "Hello", chat=True)
    assert "off" in caught.value.hint
    assert continue_prompt(lm, "Hello", max_new_tokens=3)


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"),
    [("", 5, "empty"), ("  \n", 5, "empty"), ("x", 0, "none"), ("x" * 256, 5, "256 positions")],
)
def test_what_cannot_be_continued_is_refused(tiny_lm: LM, prompt: str, tokens: int, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        continue_prompt(tiny_lm, prompt, max_new_tokens=tokens)


def test_it_stops_at_the_last_position(make_lm: Callable[..., LM]) -> None:
    lm = make_lm()
    lm.weights().generation_config.eos_token_id = None
    lm.tokenizer.eos_token = None
    seen: list[Progress] = []
    continue_prompt(lm, "x" * 250, max_new_tokens=50, progress=seen.append)
    assert seen[-1].done == seen[-1].total == 6


def test_every_token_is_reported_and_may_cancel(tiny_lm: LM) -> None:
    seen: list[Progress] = []

    def stop(report: Progress) -> None:
        seen.append(report)
        if report.done == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        continue_prompt(tiny_lm, "The river", max_new_tokens=20, progress=stop)
    assert [report.done for report in seen] == [0, 1, 2, 3, 4] and seen[0].total == 20


def test_what_a_models_makers_recommend_does_not_change_it(make_lm: Callable[..., LM]) -> None:
    lm = make_lm()
    expected = continue_prompt(lm, "hello", max_new_tokens=12)
    settings: Any = lm.weights().generation_config
    settings.repetition_penalty, settings.no_repeat_ngram_size = 9.0, 1
    assert continue_prompt(lm, "hello", max_new_tokens=12) == expected
    assert lm.weights().generation_config is settings
