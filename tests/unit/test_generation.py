"""Self-generated text: repeatable, from the model's distribution, split like any corpus."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from nirvana.calibration.corpora.corpus import SPLITS, Corpus
from nirvana.calibration.generation import Sampling, first_token, generate_corpus, write
from nirvana.errors import Cancelled, CorpusError
from nirvana.progress import Progress

if TYPE_CHECKING:
    from nirvana.models.lm import LM


def documents(corpus: Corpus) -> list[str]:
    return [text for name in SPLITS for text in corpus.split(name).documents]


def test_the_same_seed_writes_the_same_text(tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = generate_corpus(tiny_lm, tokens=600, seed=1)
    monkeypatch.setenv("NIRVANA_HOME", str(tmp_path / "elsewhere"))  # without what was kept
    again, other = (generate_corpus(tiny_lm, tokens=600, seed=seed) for seed in (1, 2))
    assert first.hash == again.hash != other.hash
    assert first.name == first.kind == "self-generated" and "seed 1" in first.description
    found = documents(first)
    assert len(found) == len(set(found)) >= 12
    assert all(first.split(name).documents for name in SPLITS)


def test_the_global_random_state_is_left_alone(tiny_lm: LM) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    generate_corpus(tiny_lm, tokens=400)
    assert torch.equal(torch.rand(3), expected)


def test_text_is_kept_by_model_and_settings(tiny_lm: LM, make_lm: Callable[..., LM]) -> None:
    generate_corpus(tiny_lm, tokens=400)
    seen: list[Progress] = []
    generate_corpus(tiny_lm, tokens=400, progress=seen.append)
    assert not seen  # read, not written again
    generate_corpus(make_lm(seed=9), tokens=400, progress=seen.append)
    assert seen


def test_no_special_tokens_are_in_the_text_and_documents_end(make_lm: Callable[..., LM]) -> None:
    lm = make_lm(seed=3)
    with torch.no_grad():  # a model that wants to end its text at once
        lm.weights().get_parameter("model.embed_tokens.weight")[1] *= 8  # of </s>; tied to the head
    lengths = []
    for text in documents(generate_corpus(lm, tokens=1_500)):
        assert "<s>" not in text and "</s>" not in text
        lengths.append(len(lm.tokenizer(text)["input_ids"]))
    assert len(set(lengths)) > 1 or max(lengths) < 125


def test_low_temperature_repeats_itself_more(tiny_lm: LM) -> None:
    cold, warm = (
        len(set("".join(documents(generate_corpus(tiny_lm, tokens=800, temperature=value))))) for value in (0.1, 1.5)
    )
    assert cold < warm


def test_samples_follow_the_model(make_lm: Callable[..., LM]) -> None:
    """First tokens are drawn in the proportions that the model gives."""
    lm = make_lm(seed=4)
    rows = write(lm, 2_000, 1, Sampling(seed=0, temperature=1.0))
    with torch.no_grad():
        logits = lm.weights()(input_ids=torch.tensor([[first_token(lm.tokenizer)]])).logits[0, -1]
    logits[lm.tokenizer.all_special_ids] = -math.inf
    expected = torch.softmax(logits, -1)
    drawn = torch.bincount(torch.tensor([row[0] for row in rows]), minlength=len(expected)) / 2_000
    top = expected.topk(10).indices
    assert float((drawn[top] - expected[top]).abs().max()) < 0.03
    assert float(drawn[top].sum()) == pytest.approx(float(expected[top].sum()), abs=0.05)


def test_a_token_that_opens_a_chat_turn_does_not_begin_a_text(tiny_lm: LM) -> None:
    tokenizer = copy.deepcopy(tiny_lm.tokenizer)
    assert first_token(tokenizer) == tokenizer.bos_token_id
    tokenizer.add_tokens(["<|endoftext|>"])
    tokenizer.chat_template = "<s>{{ messages }}"
    assert first_token(tokenizer) == tokenizer.get_vocab()["<|endoftext|>"]


@pytest.mark.parametrize(
    "values", [{"tokens": 100}, {"temperature": 0.0}, {"temperature": -1}, {"temperature": math.nan}, {"seed": -1}]
)
def test_numbers_without_sense_are_refused(tiny_lm: LM, values: dict[str, float]) -> None:
    with pytest.raises(CorpusError) as caught:
        generate_corpus(tiny_lm, **values)  # type: ignore[arg-type]
    assert caught.value.hint


def test_cancelling_leaves_nothing(tiny_lm: LM, own_home: Path) -> None:
    seen: list[Progress] = []

    def stop(report: Progress) -> None:
        seen.append(report)
        if report.done > 100:
            raise Cancelled

    with pytest.raises(Cancelled):
        generate_corpus(tiny_lm, tokens=1_000, progress=stop)
    assert seen[-1].total == 1_000 and not list(own_home.rglob("*.json"))
