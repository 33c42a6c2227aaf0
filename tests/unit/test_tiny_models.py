"""The tiny models that come with the program: trained, small, and worth scoring."""

from __future__ import annotations

import json

import pytest

import nirvana as nv
from nirvana.models.sources import BUILT_IN
from nirvana.models.tiny import FOLDER, NAMES

UNIFORM = 8.58  # bits of a guess among 384 tokens


def test_each_has_a_folder_and_is_built_in() -> None:
    assert set(NAMES) <= set(BUILT_IN)
    assert {path.parent.name for path in FOLDER.glob("*/config.json")} == set(NAMES)
    assert all(BUILT_IN[name].installed and not BUILT_IN[name].package for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_says_how_it_was_made(name: str) -> None:
    weights = FOLDER / name / "model.safetensors"
    assert weights.stat().st_size < 10_000_000
    record = json.loads((FOLDER / name / "training.json").read_text(encoding="utf-8"))
    assert all(cycle["steps"] and len(cycle["text"]) > 1 and "seed" in cycle for cycle in record["cycles"])
    assert not any(record["held_out"]["file"] in cycle["text"] for cycle in record["cycles"])
    assert record["held_out"]["bits_per_byte"] <= (2.5 if record["held_out"]["task"] else 1.9)
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert f"{record['held_out']['bits_per_byte']:.3f} bits per byte" in card


@pytest.mark.parametrize("name", NAMES)
def test_it_knows_english_and_its_saliency_means_something(name: str) -> None:
    lm = nv.load_model(name, device="cpu")
    assert (lm.source.name, str(lm.dtype)) == (name, "torch.float32")
    text = nv.load_corpus("python-docs")
    assert nv.perplexity(lm, text, window=256, max_tokens=2048).bits_per_byte < UNIFORM / 2
    calibration = nv.sample_calibration(lm, text, samples=8, length=256)
    probe = nv.sample_probe(lm, text, samples=8, length=256)
    divergences = {}
    for criterion in ("nirvana", "random"):
        plan = nv.allocate(nv.score(lm, calibration, criterion=criterion), sparsity=0.2)
        divergences[criterion] = nv.divergence(lm, nv.prune(lm, plan), probe).mean
    assert divergences["nirvana"] < divergences["random"] / 2
