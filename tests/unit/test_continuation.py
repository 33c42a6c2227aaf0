"""Greedy continuations equal taking the most likely token again and again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from nirvana.errors import Cancelled, CorpusError, ModelError
from nirvana.evaluation.continuation import continue_prompt, token_probabilities, token_texts
from nirvana.models.loading import load_model
from nirvana.progress import Progress
from nirvana.runs.continuation import continue_with
from tests.conftest import byte_tokenizer

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
    text = continue_prompt(tiny_lm, prompt, max_new_tokens=12).text
    assert text == greedy(tiny_lm, tiny_lm.tokenizer(prompt)["input_ids"], 12)
    assert text == continue_prompt(tiny_lm, prompt, max_new_tokens=12).text


@pytest.mark.parametrize(("encoder", "decoder"), [(1, 3), (3, 1)])
def test_an_encoder_decoder_of_uneven_depth_continues_greedily(encoder: int, decoder: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 4, "num_layers": encoder, "num_decoder_layers": decoder}
    configure: Any = T5Config  # some of its settings are untyped
    config = configure(
        vocab_size=len(tokenizer), pad_token_id=0, decoder_start_token_id=0, tie_word_embeddings=False, **sizes
    )
    model = T5ForConditionalGeneration(config)
    for weight in model.parameters():  # wide, or the model repeats one token
        torch.nn.init.normal_(weight, std=0.6)
    model.save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    lm = load_model(tmp_path / "t5", device="cpu")
    inputs, written = torch.tensor([lm.tokenizer("The river")["input_ids"]]), [0]
    while len(written) < 13 and (len(written) == 1 or written[-1] != lm.tokenizer.eos_token_id):
        with torch.no_grad():
            logits = lm.weights()(input_ids=inputs, decoder_input_ids=torch.tensor([written]), use_cache=False).logits
        written.append(int(logits[0, -1].argmax()))
    found = continue_prompt(lm, "The river", max_new_tokens=12)
    assert found.sequence[0].tolist() == written and len(set(written)) > 2


def test_the_chat_template_is_used_on_request(tiny_lm: LM) -> None:
    ids = tiny_lm.tokenizer("<|user|>Hello</s><|assistant|>")["input_ids"]
    assert continue_prompt(tiny_lm, "Hello", chat=True, max_new_tokens=10).text == greedy(tiny_lm, ids, 10)
    assert continue_prompt(tiny_lm, "Hello", chat=True).text != continue_prompt(tiny_lm, "Hello").text


def test_a_model_without_template_says_so(make_lm: Callable[..., LM]) -> None:
    lm = make_lm()
    lm.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template") as caught:
        continue_prompt(lm, "Hello", chat=True)
    assert "off" in caught.value.hint
    assert continue_prompt(lm, "Hello", max_new_tokens=3).text


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"),
    [
        ("", 5, "empty"),
        ("  \n", 5, "empty"),
        ("x", 0, "1 or more|cannot be generated"),
        ("x" * 512, 5, "512 positions"),
    ],
)
def test_what_cannot_be_continued_is_refused(tiny_lm: LM, prompt: str, tokens: int, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        continue_prompt(tiny_lm, prompt, max_new_tokens=tokens)


def test_it_stops_at_the_last_position(make_lm: Callable[..., LM]) -> None:
    lm = make_lm()
    lm.weights().generation_config.eos_token_id = None
    lm.tokenizer.eos_token = None
    seen: list[Progress] = []
    continue_prompt(lm, "x" * 506, max_new_tokens=50, progress=seen.append)
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
    expected = continue_prompt(lm, "hello", max_new_tokens=12).text
    settings: Any = lm.weights().generation_config
    settings.repetition_penalty, settings.no_repeat_ngram_size = 9.0, 1
    assert continue_prompt(lm, "hello", max_new_tokens=12).text == expected
    assert lm.weights().generation_config is settings


@pytest.mark.parametrize("prompt", ["The river", "näive 🦊"])
def test_pieces_make_up_the_text_and_have_the_probabilities_that_chose_them(tiny_lm: LM, prompt: str) -> None:
    written = continue_prompt(tiny_lm, prompt, max_new_tokens=12)
    assert "".join(written.pieces) == written.text and len(written.pieces) == len(written.places)
    found = token_probabilities(tiny_lm, written)
    ids = tiny_lm.tokenizer(prompt)["input_ids"]
    for place, probability in zip(written.places, found, strict=True):
        with torch.no_grad():
            before = torch.tensor([written.sequence[0, :place].tolist()])
            scores = tiny_lm.weights()(input_ids=before).logits[0, -1].softmax(-1)
        assert probability == pytest.approx(float(scores.max()), rel=1e-4)
    assert written.sequence[0, : len(ids)].tolist() == ids


def test_another_model_judges_what_was_written(tiny_lm: LM, make_lm: Callable[..., LM]) -> None:
    other = make_lm(seed=5)
    written = continue_prompt(tiny_lm, "The river", max_new_tokens=8)
    own, theirs = token_probabilities(tiny_lm, written), token_probabilities(other, written)
    with torch.no_grad():
        scores = other.weights()(input_ids=written.sequence).logits[0].softmax(-1)
    expected = [float(scores[place - 1, int(written.sequence[0, place])]) for place in written.places]
    assert theirs == pytest.approx(expected, rel=1e-4) and theirs != pytest.approx(own, rel=0.1)


def test_letters_of_several_tokens_go_with_their_last(tiny_lm: LM) -> None:
    text = "aé🦊"
    ids = tiny_lm.tokenizer(text)["input_ids"]
    assert token_texts(tiny_lm.tokenizer, ids, text) == ("a", "", "é", "", "", "", "🦊")
    cut = str(tiny_lm.tokenizer.decode(ids[:5]))
    assert "".join(token_texts(tiny_lm.tokenizer, ids[:5], cut)) == cut


def test_the_text_so_far_is_reported(tiny_lm: LM) -> None:
    seen: list[Progress] = []
    text = continue_prompt(tiny_lm, "The river", max_new_tokens=6, progress=seen.append).text
    assert seen[0].text == "" and seen[-1].text == text
    assert all(len(one.text) <= len(other.text) for one, other in itertools.pairwise(seen))


def test_every_model_judges_every_text(tiny_lm: LM, make_lm: Callable[..., LM]) -> None:
    models = {"dense": tiny_lm, "pruned": make_lm(seed=5), "recovered": make_lm(seed=6)}
    seen = list[Progress]()
    found = continue_with(models, "The river", max_new_tokens=5, progress=seen.append)
    for subject, lm in models.items():
        scored, written = found.scored[subject], continue_prompt(lm, "The river", max_new_tokens=5)
        assert "".join(scored.texts) == found.texts[subject] == written.text
        assert scored.under == {judge: token_probabilities(other, written) for judge, other in models.items()}
    shown = "\n\n".join(f"{subject.capitalize()}: {text}" for subject, text in found.texts.items())
    assert seen[-1].text == shown and seen[-1].fraction == 1
