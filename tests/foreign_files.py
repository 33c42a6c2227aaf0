"""Checkpoints and files that tests damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nirvana as nv
from nirvana.models.lm import LM
from tests.conftest import byte_tokenizer
from tests.families.gguf_writing import write_gguf
from tests.families.test_sources import tiny
from tests.uneven import uneven_plan


@pytest.fixture(scope="module")
def pruned_folder(make_lm: Callable[..., LM], tmp_path_factory: pytest.TempPathFactory) -> Path:
    lm = make_lm()
    folder = tmp_path_factory.mktemp("hostile") / "pruned"
    nv.save(nv.prune(lm, uneven_plan(lm)), folder)
    return folder


@pytest.fixture
def dense(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "dense"))


@pytest.fixture
def pruned(pruned_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pruned_folder, tmp_path / "pruned"))


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = byte_tokenizer()
    sizes: dict[str, Any] = {
        "d_model": 16,
        "d_kv": 4,
        "d_ff": 24,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 4,
    }
    configure: Any = T5Config  # some of its settings are untyped
    config = configure(vocab_size=len(tokenizer), pad_token_id=0, decoder_start_token_id=0, **sizes)
    folder = tmp_path_factory.mktemp("hostile") / "t5"
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A GGUF file whose header is about half of it."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "llama", tiny("Llama")).read_bytes()
