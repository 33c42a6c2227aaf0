"""Text for encoder-decoders: examples made of windows, and what is measured on them, against slow computations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nirvana.allocation.allocate import allocate
from nirvana.calibration.generation import generate_corpus
from nirvana.calibration.sampling import sample_calibration, sample_probe
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.calibration.tasks import (
    BYTE_SENTINELS,
    CONTINUATION,
    SPANS,
    TASKS,
    make_pairs,
    sentinels,
    start_token,
    task_of,
)
from nirvana.errors import CorpusError, SaliencyError
from nirvana.evaluation.continuation import continue_prompt, token_probabilities
from nirvana.evaluation.divergence import divergence
from nirvana.evaluation.perplexity import perplexity
from nirvana.layout import KV_GROUP, Site
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.saliency.score import score
from nirvana.selection import select_calibration
from nirvana.surgery import prune
from tests.conftest import english
from tests.families import test_t5 as makers

TEXT = "\n\n".join(english(20, seed=4)) + " Naïve façade, 12 €."
WINDOWS = np.arange(20, 200).reshape(3, 60)  # every token once


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> LM:
    folder = tmp_path_factory.mktemp("models") / "t5"
    makers.T5Tests.write(folder)
    return load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def byt5(tmp_path_factory: pytest.TempPathFactory) -> LM:
    folder = tmp_path_factory.mktemp("models") / "byt5"
    makers.TestByT5.write(folder)
    return load_model(folder, device="cpu")


def test_missing_spans_and_what_is_left_make_up_the_window(t5: LM) -> None:
    pairs = make_pairs(t5, WINDOWS, SPANS, np.random.default_rng(1))
    marks, end = sentinels(t5), t5.tokenizer.eos_token_id
    for row, window in enumerate(WINDOWS):
        inputs, labels = pairs.inputs[row].tolist(), pairs.labels[row].tolist()
        assert inputs.pop() == labels.pop() == end
        spans: dict[int, list[int]] = {}
        for token in labels:
            if token in marks:
                spans[token] = []
                mark = token
            else:
                spans[mark].append(token)
        assert list(spans) == list(marks[: len(spans)])  # in order, each once
        assert all(spans.values())
        restored = [piece for token in inputs for piece in (spans[token] if token in marks else [token])]
        assert restored == window.tolist()
        assert sum(map(len, spans.values())) == 9  # 15 % of 60
        assert len(spans) == 3  # of 3 tokens on average


def test_labels_know_where_in_the_window_they_come_from(t5: LM) -> None:
    for task in TASKS:
        pairs = make_pairs(t5, WINDOWS, task, np.random.default_rng(2))
        from_text = pairs.origin >= 0
        for row, window in enumerate(WINDOWS):
            assert np.array_equal(pairs.labels[row][from_text[row]], window[pairs.origin[row][from_text[row]]])
        others = set(pairs.labels[~from_text].tolist())
        assert others <= {*sentinels(t5), t5.tokenizer.eos_token_id}


def test_a_continuation_predicts_the_second_half(t5: LM) -> None:
    pairs = make_pairs(t5, WINDOWS, CONTINUATION, np.random.default_rng(0))
    assert np.array_equal(pairs.inputs[:, :-1], WINDOWS[:, :30]) and (pairs.inputs[:, -1] == 1).all()
    assert np.array_equal(pairs.labels, WINDOWS[:, 30:])


@pytest.mark.parametrize("task", TASKS)
def test_the_decoder_reads_the_labels_one_place_later(t5: LM, task: str) -> None:
    pairs = make_pairs(t5, WINDOWS, task, np.random.default_rng(0))
    assert pairs.decoder_inputs is not None
    assert (pairs.decoder_inputs[:, 0] == start_token(t5)).all()
    assert np.array_equal(pairs.decoder_inputs[:, 1:], pairs.labels[:, :-1])


@pytest.mark.parametrize("length", [2, 3, 7, 128, 500])
def test_windows_of_every_length_can_be_corrupted(t5: LM, byt5: LM, length: int) -> None:
    windows = np.tile(np.arange(3, 3 + length) % 200 + 3, (4, 1))
    for lm in (t5, byt5):
        pairs = make_pairs(lm, windows, SPANS, np.random.default_rng(0))
        missing = int((pairs.origin[0] >= 0).sum())
        assert missing == max(round(length * 0.15), 1)
        assert pairs.inputs.shape[1] + pairs.labels.shape[1] - 2 == length + 2 * len(
            set(pairs.inputs[0].tolist()) & set(sentinels(lm))
        )


def test_byte_models_take_the_highest_bytes_as_sentinels(byt5: LM) -> None:
    assert sentinels(byt5) == BYTE_SENTINELS
    assert BYTE_SENTINELS[0] == 258
    assert all(bytes([token - 3]) > b"\xf4" for token in BYTE_SENTINELS)  # no UTF-8 text has them


def test_the_task_is_the_models_own_unless_another_is_chosen(t5: LM, tiny_lm: LM, tmp_path: Path) -> None:
    assert task_of(t5) == SPANS
    assert task_of(t5, CONTINUATION) == CONTINUATION
    assert task_of(tiny_lm) == ""
    makers.T5Tests.write(tmp_path / "flan-t5-tiny")
    assert task_of(load_model(tmp_path / "flan-t5-tiny", device="cpu")) == CONTINUATION
    with pytest.raises(CorpusError, match="no encoder"):
        sample_calibration(tiny_lm, TEXT, samples=2, length=8, task=SPANS)
    with pytest.raises(CorpusError, match="'summary'"):
        sample_calibration(t5, TEXT, samples=2, length=8, task="summary")


def test_sets_are_drawn_alike_and_travel_whole(t5: LM) -> None:
    first, again = (sample_calibration(t5, TEXT, samples=4, length=32, seed=3) for _ in range(2))
    other = sample_calibration(t5, TEXT, samples=4, length=32, seed=3, task=CONTINUATION)
    assert first.hash == again.hash != other.hash
    assert (first.task, other.task) == (SPANS, CONTINUATION)
    back = CalibrationSet.from_bytes(first.to_bytes())
    assert back.hash == first.hash and back.task == SPANS and back.texts == first.texts
    assert np.array_equal(back.decoder_tokens, first.decoder_tokens)  # type: ignore[arg-type]


def slow_losses(lm: LM, calibration: CalibrationSet) -> torch.Tensor:
    with torch.no_grad():
        logits = lm.weights()(input_ids=calibration.input_ids, decoder_input_ids=calibration.decoder_input_ids).logits
    assert calibration.labels is not None
    return F.cross_entropy(logits.double().flatten(0, 1), calibration.labels.flatten(), reduction="none")


@pytest.mark.parametrize("task", TASKS)
def test_perplexity_is_that_of_the_texts_tokens_in_the_decoder(t5: LM, task: str) -> None:
    window = 40
    ids = t5.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    windows = np.array(ids[: len(ids) // window * window]).reshape(-1, window)
    pairs = make_pairs(t5, windows, task, np.random.default_rng(0))
    calibration = CalibrationSet(pairs.inputs, decoder_input_ids=pairs.decoder_inputs, labels=pairs.labels)
    losses = slow_losses(t5, calibration).reshape(pairs.labels.shape).numpy()
    expected = losses[pairs.origin >= 0]
    found = perplexity(t5, TEXT, window=window, task=task)
    assert found.value == pytest.approx(math.exp(expected.mean()), rel=1e-5)
    assert (found.tokens, found.task, found.windows) == (expected.size, task, len(windows))
    # One token is one byte, up to characters of several bytes at the very end.
    assert found.bits_per_byte == pytest.approx(expected.mean() / math.log(2), rel=0.02)


def test_bits_per_byte_of_a_byte_model(byt5: LM) -> None:
    text = "é€ñ" * 200
    found = perplexity(byt5, text, window=64, task=CONTINUATION)
    assert found.bits_per_byte == pytest.approx(math.log2(found.value), rel=0.05)


def test_divergence_is_measured_at_the_decoders_positions(t5: LM) -> None:
    calibration = sample_calibration(t5, TEXT, samples=6, length=32)
    probe = sample_probe(t5, TEXT, samples=5, length=24)
    saliency = score(t5, calibration)
    plan = allocate(saliency, sparsity=0.3, gamma=1.0)
    pruned = prune(t5, plan)
    found = divergence(t5, pruned, probe)
    logs = []
    for lm in (t5, pruned):
        with torch.no_grad():
            logits = lm.weights()(input_ids=probe.input_ids, decoder_input_ids=probe.decoder_input_ids).logits
        logs.append(torch.log_softmax(logits.double(), dim=-1))
    expected = (logs[0].exp() * (logs[0] - logs[1])).sum(dim=-1).numpy()
    assert found.per_token.shape == probe.outputs.shape
    np.testing.assert_allclose(found.per_token, expected, rtol=1e-3, atol=1e-6)
    assert plan.sparsity == pytest.approx(0.3, abs=0.02)
    assert {site.module for site in saliency.layout.pool(KV_GROUP)} == {"attention", "cross_attention"}
    assert Site("decoder", 1, "cross_attention") in saliency


def test_calibration_is_chosen_by_kl_of_the_decoder(t5: LM) -> None:
    probe = sample_probe(t5, TEXT, samples=4, length=24)
    options = {"candidates": 2, "samples": 3, "length": 24, "probe": probe, "gamma": 1.0}
    selection = select_calibration(t5, TEXT, **options)  # type: ignore[arg-type]
    back = CalibrationSelection.from_bytes(selection.to_bytes())
    assert back.hash == selection.hash and back.calibration.task == SPANS
    assert back.probe.hash == probe.hash
    scores = score(t5, selection)
    assert all(np.array_equal(scores[site], score(t5, selection.calibration)[site]) for site in scores)


def test_sets_for_the_other_kind_of_model_are_refused(t5: LM, tiny_lm: LM) -> None:
    for_encoder, for_decoder = (sample_calibration(lm, TEXT, samples=2, length=16) for lm in (t5, tiny_lm))
    with pytest.raises(SaliencyError, match="another kind of model"):
        score(tiny_lm, for_encoder)
    with pytest.raises(SaliencyError, match="another kind of model"):
        score(t5, for_decoder)
    with pytest.raises(CorpusError, match="another kind of model"):
        divergence(t5, t5, for_decoder)


def test_labels_and_decoder_inputs_go_together() -> None:
    ids = np.ones((2, 4), np.int64)
    with pytest.raises(CorpusError, match="do not match"):
        CalibrationSet(ids, labels=ids)
    with pytest.raises(CorpusError, match="different numbers"):
        CalibrationSet(ids, decoder_input_ids=ids[:1], labels=ids[:1])


def test_a_prompt_is_continued_by_the_decoder(t5: LM, byt5: LM) -> None:
    for lm in (t5, byt5):
        text = continue_prompt(lm, "The river finds", max_new_tokens=6).text
        assert "The river" not in text and "extra_id" not in text
        assert text == continue_prompt(lm, "The river finds", max_new_tokens=6).text


def test_what_a_decoder_wrote_is_judged_with_all_that_it_read(t5: LM, byt5: LM) -> None:
    for lm in (t5, byt5):
        written = continue_prompt(lm, "The river finds", max_new_tokens=6)
        assert "".join(written.pieces) == written.text
        found = token_probabilities(lm, written)
        with torch.no_grad():
            logits = lm.weights()(**written.inputs, decoder_input_ids=written.sequence).logits[0]
        ids = written.sequence[0]
        expected = [float(logits[place - 1].softmax(-1)[ids[place]]) for place in written.places]
        assert found == pytest.approx(expected, rel=1e-4)


def test_it_writes_no_corpus_by_itself(t5: LM) -> None:
    with pytest.raises(CorpusError, match="needs an input to generate from"):
        generate_corpus(t5)
