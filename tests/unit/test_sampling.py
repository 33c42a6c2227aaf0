"""Windows are drawn from their split alone, repeatably and without overlap, or the request is refused."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from nirvana.calibration.corpora.corpus import CorpusSplit
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.calibration.sampling import sample_calibration, sample_probe
from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import CorpusError

if TYPE_CHECKING:
    from nirvana.models.lm import LM


def numbered(count: int) -> str:
    """Text in which every five characters are different: a window tells where it is from."""
    return "".join(f"{index:05d}" for index in range(count))


def test_windows_have_the_shape_and_come_from_their_split(tiny_lm: LM, sample_text: Path) -> None:
    corpus = load_corpus(sample_text)
    calibration = sample_calibration(tiny_lm, corpus, samples=6, length=50, seed=3)
    probe = sample_probe(tiny_lm, corpus, samples=5, length=20)
    assert calibration.input_ids.shape == (6, 50) and probe.input_ids.shape == (5, 20)
    assert str(calibration.input_ids.dtype) == "torch.int64" and calibration.attention_mask is None
    assert (calibration.source, calibration.source_hash, calibration.seed) == (corpus.name, corpus.hash, 3)
    for drawn, name in ((calibration, "calibration"), (probe, "probe")):
        assert list(drawn.texts) == [tiny_lm.tokenizer.decode(row) for row in drawn.tokens]
        for text in drawn.texts:  # a window may go over a document's end
            assert all(
                any(part in document for document in corpus.split(name).documents) for part in text.split("\n\n")
            )


def test_the_same_seed_gives_the_same_windows(tiny_lm: LM, sample_text: Path) -> None:
    corpus = load_corpus(sample_text)
    first, again, other = (sample_calibration(tiny_lm, corpus, samples=4, length=32, seed=s) for s in (1, 1, 2))
    assert first.hash == again.hash != other.hash


def test_the_number_of_processors_does_not_change_the_draw(tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, hashes = [numbered(20) + str(index) for index in range(400)], set()
    for processors in (1, 3, 64):
        monkeypatch.setattr(os, "cpu_count", lambda count=processors: count)
        hashes.add(sample_calibration(tiny_lm, documents, samples=4, length=32).hash)
    assert len(hashes) == 1


def test_a_set_of_its_own_keeps_its_tokens_whatever_becomes_of_the_tensor() -> None:
    ids = torch.arange(12).view(3, 4)
    calibration = CalibrationSet(input_ids=ids)
    ids.zero_()
    assert torch.equal(calibration.input_ids, torch.arange(12).view(3, 4))


def test_the_global_random_state_is_left_alone(tiny_lm: LM, sample_text: Path) -> None:
    np.random.seed(0)  # noqa: NPY002 - the state that must not change
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    sample_calibration(tiny_lm, load_corpus(sample_text), samples=4, length=32)
    assert np.random.random() == expected  # noqa: NPY002


@pytest.mark.parametrize("seed", range(5))
def test_windows_do_not_overlap_while_there_is_text(tiny_lm: LM, seed: int) -> None:
    text = numbered(100)  # 500 tokens
    drawn = sample_calibration(tiny_lm, text, samples=7, length=64, seed=seed)
    starts = sorted(text.index(window) for window in drawn.texts)
    assert all(after - before >= 64 for before, after in itertools.pairwise(starts))


def test_windows_differ_where_there_is_little_text(tiny_lm: LM) -> None:
    text = numbered(20)  # 100 tokens
    drawn = sample_calibration(tiny_lm, text, samples=10, length=64)
    assert len(set(drawn.texts)) == 10 and all(window in text for window in drawn.texts)


def test_short_documents_are_joined_with_blank_lines(tiny_lm: LM) -> None:
    documents = [f"doc {index:03d}" for index in range(50)]
    drawn = sample_calibration(tiny_lm, documents, samples=3, length=60)
    for text in drawn.texts:
        whole = text.split("\n\n")[1:-1]
        assert len(whole) >= 5 and set(whole) <= set(documents)


def test_a_split_and_plain_text_are_used_whole(tiny_lm: LM) -> None:
    split = CorpusSplit("mine", "evaluation", (numbered(60),))
    drawn = sample_probe(tiny_lm, split, samples=4, length=16)
    assert drawn.source == "mine" and drawn.source_hash == split.hash
    assert drawn.hash == sample_probe(tiny_lm, numbered(60), samples=4, length=16).hash


def test_too_little_text_is_refused_with_the_numbers(tiny_lm: LM) -> None:
    with pytest.raises(CorpusError, match="100 tokens, too few for 50 different windows of 64"):
        sample_calibration(tiny_lm, numbered(20), samples=50, length=64)
    with pytest.raises(CorpusError, match="too few"):
        sample_probe(tiny_lm, "short")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": 0}, "cannot be drawn"),
        ({"length": 1}, "cannot be drawn"),
        ({"length": 513}, "512 positions"),
        ({"seed": -1}, "negative"),
    ],
)
def test_numbers_without_sense_are_refused(tiny_lm: LM, values: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        sample_calibration(tiny_lm, numbered(500), **values)


@pytest.mark.parametrize("text", ["", "  \n", [], ["", " "], 5, None, [1, 2]])
def test_what_is_no_text_is_refused(tiny_lm: LM, text: object) -> None:
    with pytest.raises(CorpusError):
        sample_calibration(tiny_lm, text)  # type: ignore[arg-type]


def test_the_name_of_a_file_is_not_its_text(tiny_lm: LM, sample_text: Path) -> None:
    with pytest.raises(CorpusError, match="a file's name") as caught:
        sample_calibration(tiny_lm, str(sample_text), samples=1, length=4)
    assert "load_corpus" in caught.value.hint
    assert sample_calibration(tiny_lm, "no file has this name, so it is text", samples=1, length=4).samples == 1
