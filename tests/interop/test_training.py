"""Pruned checkpoints, trained by Trainer and peft of the installed transformers, read there and here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from nirvana.checkpoints.saving import save
from nirvana.models.loading import load_model
from nirvana.surgery import prune
from tests.families import test_t5
from tests.interop.transformers4 import TRAINER, logits, read_elsewhere
from tests.uneven import uneven_plan, with_output_biases, write_family_model

pytestmark = pytest.mark.skipif(not os.environ.get("NIRVANA_INTEROP"), reason="takes 20 s: make test-interop")


def test_training_there_reads_back_here(tmp_path: Path) -> None:
    for name in ("Llama", "Qwen2"):
        write_family_model(tmp_path / "dense" / name, name)
    test_t5.TestT5Gated.write(tmp_path / "dense" / "T5")
    folders = []
    for name in ("Llama", "Qwen2", "T5"):
        lm = load_model(tmp_path / "dense" / name, device="cpu")
        folders.append(save(with_output_biases(prune(lm, uneven_plan(lm))), tmp_path / name))
    for answer in read_elsewhere(Path(sys.executable), folders, tmp_path, TRAINER):
        assert answer["saved"] == answer["trained"] == answer["merged"] == 0
        assert answer["moved"] > 0.1 and answer["attentions_sum_to_one"]
        for form in ("saved", "trained/checkpoint-2", "merged"):
            folder = tmp_path / f"{answer['folder']}-{form}"
            with np.load(folder / "expected.npz") as file:
                expected = file["logits"]
            assert np.abs(logits(load_model(folder, device="cpu")) - expected).max() < 1e-4 * np.abs(expected).max()
