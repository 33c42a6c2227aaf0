"""Perplexity equals a slow computation window by window, and refuses what it cannot measure."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nirvana.calibration.corpora.registry import load_corpus
from nirvana.errors import Cancelled, CorpusError, ModelError
from nirvana.evaluation.perplexity import perplexity
from nirvana.forward import bounds
from nirvana.progress import Progress

if TYPE_CHECKING:
    from nirvana.models.lm import LM

TEXT = "The quick brown fox jumps over the lazy dog, again and again — naïve façade 🦊. " * 12


def slow(lm: LM, text: str, window: int, max_tokens: int = 10**9) -> tuple[list[float], list[list[int]]]:
    """Mean nats of each window from the library's own logits, one window at a time."""
    ids = lm.tokenizer(text)["input_ids"][:max_tokens]
    windows = [ids[start : start + window] for start in range(0, len(ids) - window + 1, window)]
    means = []
    for tokens in windows:
        batch = torch.tensor([tokens])
        with torch.no_grad():
            logits = lm.weights()(input_ids=batch).logits.float()
        means.append(float(F.cross_entropy(logits[0, :-1].double(), batch[0, 1:])))
    return means, windows


@pytest.mark.parametrize("window", [2, 17, 64, 256])
@pytest.mark.parametrize("chunk_logits", [1 << 24, 5 * 258])
def test_it_equals_the_slow_way(tiny_lm: LM, window: int, chunk_logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "CHUNK_LOGITS", chunk_logits)
    means, windows = slow(tiny_lm, TEXT, window)
    result = perplexity(tiny_lm, TEXT, window=window)
    assert result.per_window == pytest.approx(means, rel=1e-5)
    assert result.value == pytest.approx(math.exp(np.mean(means)), rel=1e-5)
    assert result.windows == len(means) and result.window == window
    assert result.tokens == len(means) * (window - 1)
    expected = result.value * np.std(means, ddof=1) / math.sqrt(len(means))
    assert result.standard_error == pytest.approx(expected, rel=1e-4)
    if window < 64:
        return
    # One token is one byte here: what is scored is all but the first byte of each window, or the first whole character.
    bits = sum(means) * (window - 1) / math.log(2)
    assert result.bits_per_byte == pytest.approx(bits / (len(windows) * (window - 1)), rel=1e-2)


def test_bits_per_byte_by_hand(tiny_lm: LM) -> None:
    result = perplexity(tiny_lm, "a" * 64, window=32)
    assert result.bits_per_byte == pytest.approx(float(result.per_window.mean()) / math.log(2), rel=1e-5)
    umlauts = perplexity(tiny_lm, "ä" * 32, window=64)  # two tokens each: the first one's second byte is not scored
    nats = float(umlauts.per_window[0]) * 63
    assert umlauts.bits_per_byte == pytest.approx(nats / math.log(2) / 62, rel=1e-5)


def test_a_corpus_is_measured_on_its_evaluation_split(tiny_lm: LM, sample_text: Path) -> None:
    corpus = load_corpus(sample_text)
    split = corpus.split("evaluation")
    result = perplexity(tiny_lm, corpus, window=64, max_tokens=640)
    for other in (
        perplexity(tiny_lm, split, window=64, max_tokens=640),
        perplexity(tiny_lm, split.text, window=64, max_tokens=640),
    ):
        assert other.value == result.value
    assert (result.corpus, result.corpus_hash, result.windows) == (corpus.name, corpus.hash, 10)


def test_only_so_many_tokens_are_read(tiny_lm: LM) -> None:
    means, _ = slow(tiny_lm, TEXT, 32, max_tokens=100)
    result = perplexity(tiny_lm, TEXT, window=32, max_tokens=100)
    assert result.windows == len(means) == 3
    assert result.per_window == pytest.approx(means, rel=1e-5)


def test_one_window_has_no_standard_error(tiny_lm: LM) -> None:
    result = perplexity(tiny_lm, "x" * 70, window=64)
    assert result.windows == 1 and math.isnan(result.standard_error)


def test_half_precision_is_close(make_lm: Callable[..., LM]) -> None:
    exact, rounded = (perplexity(make_lm(dtype=dtype), TEXT, window=64) for dtype in ("float32", "bfloat16"))
    assert rounded.value == pytest.approx(exact.value, rel=0.05) and rounded.value != exact.value


@pytest.mark.parametrize(
    ("text", "values", "error", "message"),
    [
        ("too short", {}, CorpusError, "9 tokens, less than one window of 128"),
        ("", {}, CorpusError, "no text"),
        (TEXT, {"window": 513}, ModelError, "512 positions"),
        (TEXT, {"window": 1}, CorpusError, "predicts nothing"),
        (TEXT, {"window": 64, "max_tokens": 63}, CorpusError, "predicts nothing"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tiny_lm: LM, text: str, values: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        perplexity(tiny_lm, text, window=values.get("window", 128), max_tokens=values.get("max_tokens", 4_096))


def test_outputs_that_are_not_numbers_are_refused(make_lm: Callable[..., LM]) -> None:
    lm = make_lm()
    with torch.no_grad():
        lm.weights().get_parameter("model.norm.weight")[0] = math.nan
    with pytest.raises(ModelError, match="not numbers"):
        perplexity(lm, TEXT, window=64)


def test_progress_reaches_the_total_and_may_cancel(tiny_lm: LM) -> None:
    seen: list[Progress] = []
    result = perplexity(tiny_lm, TEXT, window=64, progress=seen.append)
    assert seen[-1].done == seen[-1].total == result.tokens
    assert [report.done for report in seen] == sorted(report.done for report in seen)

    def stop(report: Progress) -> None:
        if report.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        perplexity(tiny_lm, TEXT, window=64, progress=stop)


@pytest.mark.smollm2
@pytest.mark.skipif("NIRVANA_TEST_DATA" not in os.environ, reason="NIRVANA_TEST_DATA names no folder of real text")
def test_smollm2_reads_wikipedia_as_it_should(smollm2: LM) -> None:
    """About 27 on these tokens in windows of 512; a target that is off by one gives thousands."""
    text = (Path(os.environ["NIRVANA_TEST_DATA"]) / "text" / "wiki_wikitext2_raw_part.txt").read_text(encoding="utf-8")
    result = perplexity(smollm2, text, window=512, max_tokens=1024)
    assert 10 < result.value < 45
