"""A pruned checkpoint, read by transformers in a process that cannot import this project."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirvana.checkpoints import remote_code
from nirvana.checkpoints.saving import save
from nirvana.checkpoints.uniform import export_uniform
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.surgery import prune
from tests.interop.transformers4 import IDS, MODELS, SCALED, logits, read_elsewhere
from tests.uneven import uneven_plan, write_family_model

REMOVED = (("decoder", 1),)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LM]:
    place = tmp_path_factory.mktemp("dense")
    return {
        name: load_model(write_family_model(place / name, library, **changes), device="cpu")
        for name, (library, changes) in MODELS.items()
    }


@pytest.fixture(scope="module")
def answers(dense: dict[str, LM], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Folder name -> what transformers alone made of it, all in one process."""
    place = tmp_path_factory.mktemp("exports")
    folders = []
    for name, lm in dense.items():
        forms = {name: prune(lm, uneven_plan(lm))}
        if name == "llama":
            forms["shorter"] = prune(lm, uneven_plan(lm, removed_layers=REMOVED))
            forms["dense"] = lm
        for label, small in forms.items():
            folders.append(save(small, place / label))
            np.savez(folders[-1] / "expected.npz", ids=IDS.numpy(), logits=logits(small))
            folders.append(export_uniform(small, place / f"{label}-uniform"))
            np.savez(folders[-1] / "expected.npz", ids=IDS.numpy(), logits=logits(small))
    lines = read_elsewhere(Path(sys.executable), folders, place)
    return {line["folder"]: line for line in lines}


@pytest.mark.parametrize("name", [*MODELS, "shorter"])
def test_transformers_alone_computes_bit_for_bit_the_same(answers: dict[str, Any], name: str) -> None:
    found = answers[name]
    assert found["difference"] == 0
    assert found["class"].startswith("Pruned")
    assert found["cached_generation_is_uncached"]
    assert found["without_gradient"] == []


@pytest.mark.parametrize("name", [*MODELS, "shorter", "dense"])
def test_a_uniform_export_needs_no_code_and_computes_the_same(answers: dict[str, Any], name: str) -> None:
    found = answers[f"{name}-uniform"]
    assert found["difference"] < 1e-5
    assert not found["class"].startswith("Pruned")
    assert found["cached_generation_is_uncached"]


def test_a_dense_model_stays_plain(answers: dict[str, Any]) -> None:
    assert answers["dense"]["class"] == "LlamaForCausalLM"
    assert answers["dense"]["difference"] == 0


def test_removed_layers_are_renumbered(answers: dict[str, Any]) -> None:
    assert answers["shorter"]["layer_idx"] == answers["shorter-uniform"]["layer_idx"] == [0, 1]


def test_the_tokenizer_is_read_without_this_project(answers: dict[str, Any], dense: dict[str, LM]) -> None:
    assert answers["llama"]["tokens"] == dense["llama"].tokenizer("To be").input_ids


def test_the_config_says_the_same_to_transformers_4(dense: dict[str, LM], tmp_path: Path) -> None:
    lm = dense["llama-scaled"]
    config = json.loads((save(prune(lm, uneven_plan(lm)), tmp_path / "out") / "config.json").read_text())
    assert config["rope_theta"] == SCALED["rope_theta"]
    assert config["rope_scaling"]["rope_type"] == "llama3"
    assert config["head_dim"] == 8
    tokenizer = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"  # 4 knows no TokenizersBackend


def test_the_record_of_a_removed_layer_moves_up(dense: dict[str, LM], tmp_path: Path) -> None:
    lm = dense["llama"]
    shorter = prune(lm, uneven_plan(lm, removed_layers=REMOVED))
    config = json.loads((save(shorter, tmp_path / "out") / "config.json").read_text())
    widths = [place.units for site, place in shorter.layout.items() if site.module == "mlp"]
    assert [config["per_layer_config"][layer]["intermediate_size"] for layer in ("0", "1")] == widths
    assert config["num_hidden_layers"] == 2


def test_our_loader_ignores_the_code(dense: dict[str, LM], tmp_path: Path) -> None:
    lm = dense["llama"]
    small = prune(lm, uneven_plan(lm))
    folder = save(small, tmp_path / "out")
    (folder / f"{remote_code.MODULE}.py").write_text("raise SystemExit('this was run')")
    assert np.array_equal(logits(load_model(folder, device="cpu")), logits(small))


def test_the_code_is_short_and_copies_no_forward() -> None:
    for architecture in ("LlamaForCausalLM", "Qwen3ForCausalLM"):
        source = remote_code.remote_code(architecture)
        assert f"class Pruned{architecture}({architecture})" in source
        assert f"class Pruned{architecture.removesuffix('ForCausalLM')}Model(" in source
        assert "def forward" not in source
        assert len(source.splitlines()) < 60
    assert "Llama" not in source


def test_plans_are_recorded_in_order(dense: dict[str, LM], tmp_path: Path) -> None:
    once = prune(dense["llama"], uneven_plan(dense["llama"]))
    twice = prune(once, uneven_plan(once, seed=2))
    assert len(twice.plans) == 2 and twice.plans[:1] == once.plans
    assert load_model(save(twice, tmp_path / "out"), device="cpu").plans == twice.plans
