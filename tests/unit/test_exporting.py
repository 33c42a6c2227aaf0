"""Exports are read back before they appear; what is wrong is refused, and leaves nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nirvana.allocation.allocate import allocate
from nirvana.checkpoints import exporting
from nirvana.checkpoints.exporting import export
from nirvana.checkpoints.remote_code import MODULE
from nirvana.checkpoints.saving import save
from nirvana.checkpoints.sizes import FORMATS, export_sizes, padding_note, uniform_layout
from nirvana.checkpoints.uniform import export_uniform, fill_up
from nirvana.checkpoints.verification import verify_export
from nirvana.errors import Cancelled, CheckpointError, ModelError, NirvanaError
from nirvana.evaluation.results import Measurement, Report
from nirvana.layout import KV_GROUP
from nirvana.models.families.llama import LlamaFamily
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.progress import Progress
from nirvana.saliency.score import score
from nirvana.surgery import prune
from tests.families.gguf_writing import write_gguf
from tests.families.test_sources import tiny
from tests.uneven import uneven_plan


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LM:
    lm = load_model(write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "llama", tiny("Llama")), device="cpu")
    return prune(lm, uneven_plan(lm))


def left(place: Path) -> list[str]:
    return sorted(item.name for item in place.iterdir() if item.name != "home")


def target(place: Path, format: str) -> Path:
    return place / ("out.gguf" if format == "gguf" else "out")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_written_and_verified(small: LM, tmp_path: Path, format: str) -> None:
    seen: list[Progress] = []
    made = export(small, target(tmp_path, format), format=format, progress=seen.append)
    assert made.path.exists() and left(tmp_path) == [made.path.name]
    assert made.verification.difference <= 0.02 * made.verification.scale
    assert made.verification.checks
    sizes = export_sizes(small.layout, small.kept, dtype="float32")
    assert sizes[format] < made.bytes < sizes[format] + 60_000  # the vectors of a GGUF file, the tokenizer, the card
    parts = [progress.stage.partition(":")[0] for progress in seen]
    assert parts == sorted(parts, reverse=True) and set(parts) == {"Writing", "Verifying"}


@pytest.mark.parametrize("format", FORMATS)
def test_what_does_not_verify_never_appears(
    small: LM, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise CheckpointError("It differs.")

    export(small, target(tmp_path, format), format=format)
    before = left(tmp_path), exporting.size_of(target(tmp_path, format))
    monkeypatch.setattr(exporting, "verify_export", refuse)
    with pytest.raises(CheckpointError, match="It differs"):
        export(small, target(tmp_path, format), format=format)
    assert (left(tmp_path), exporting.size_of(target(tmp_path, format))) == before
    with pytest.raises(CheckpointError, match="It differs"):
        export(small, target(tmp_path / "other", format), format=format)
    assert left(tmp_path / "other") == []


@pytest.mark.parametrize("format", FORMATS)
def test_cancelling_while_verifying_leaves_nothing(small: LM, tmp_path: Path, format: str) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage.startswith("Verifying"):
            raise Cancelled

    with pytest.raises(Cancelled):
        export(small, target(tmp_path, format), format=format, progress=stop)
    assert left(tmp_path) == []


def test_an_unknown_format_is_refused(small: LM, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint, uniform, gguf"):
        export(small, tmp_path / "out", format="onnx")


def test_a_folder_of_other_things_is_left_alone(small: LM, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.odt").write_text("three years")
    for format in ("checkpoint", "uniform"):
        with pytest.raises(CheckpointError, match="was not changed"):
            export(small, tmp_path / "out", format=format)
    assert left(tmp_path / "out") == ["thesis.odt"]


def change_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][0] += 0.5
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lie_about_shapes(folder: Path) -> None:
    record = json.loads((folder / "pruning.json").read_text())
    record["kept"]["decoder.0.mlp"] = record["kept"]["decoder.0.mlp"][:-1]
    (folder / "pruning.json").write_text(json.dumps(record))


def lie_about_shapes_twice(folder: Path) -> None:
    """In the config as well, so that only the weights can tell."""
    lie_about_shapes(folder)
    config = json.loads((folder / "config.json").read_text())
    config["per_layer_config"]["0"]["intermediate_size"] -= 1
    (folder / "config.json").write_text(json.dumps(config))


def lie_about_the_version(folder: Path) -> None:
    record = json.loads((folder / "pruning.json").read_text())
    (folder / "pruning.json").write_text(json.dumps(record | {"version": 99}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_weight, "read back, differs from the model"),
        (truncate, "truncated or not a safetensors file"),
        (lie_about_shapes, "disagree about layer 0 of the decoder"),
        (lie_about_shapes_twice, r"pruning\.json and the weights disagree: .*mlp"),
        (lie_about_the_version, "version 99"),
    ],
)
def test_a_damaged_checkpoint_does_not_verify(small: LM, tmp_path: Path, damage: Any, message: str) -> None:
    folder = save(small, tmp_path / "out")
    damage(folder)
    with pytest.raises(NirvanaError, match=message):
        verify_export(small, folder)


def test_other_code_in_the_folder_is_not_run(small: LM, tmp_path: Path) -> None:
    folder = save(small, tmp_path / "out")
    code = folder / f"{MODULE}.py"
    code.write_text(f"open({str(tmp_path / 'was-run')!r}, 'w').close()\n{code.read_text()}")
    with pytest.raises(CheckpointError, match="was not run"):
        verify_export(small, folder)
    assert not (tmp_path / "was-run").exists()


def test_pickled_weights_beside_safetensors_are_refused_unread(small: LM, tmp_path: Path) -> None:
    folder = save(small, tmp_path / "out")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ModelError, match="twice"):
        verify_export(small, folder)


def test_a_filled_up_model_is_dense_and_computes_the_same(small: LM, tmp_path: Path) -> None:
    ids = torch.arange(2, 34).reshape(2, 16)
    filled = fill_up(small)
    with torch.inference_mode():
        expected = small.weights()(ids).logits
        assert (filled.weights()(ids).logits - expected).abs().max() < 1e-5
    assert not filled.is_pruned and filled.hash != small.hash
    assert filled.layout.parameters == sum(p.numel() for p in filled.weights().parameters())
    again = load_model(export_uniform(small, tmp_path / "out"), device="cpu")
    assert again.layout == filled.layout
    assert left(tmp_path / "out") == [name for name in left(tmp_path / "out") if not name.endswith(".py")]
    assert small.is_pruned and small.config.intermediate_size == 48  # the narrow one is as it was


def test_only_head_counts_that_divide_the_hidden_size_are_filled_up_to(tiny_lm: LM) -> None:
    config = {**tiny_lm.settings, "num_attention_heads": 8, "num_key_value_heads": 8, "hidden_size": 32}
    layout = LlamaFamily().layout(config)
    narrow = replace(layout, sites={site: place._replace(units=3) for site, place in layout.items()})
    assert {uniform_layout(narrow, {})[site].units for site in layout.pool(KV_GROUP)} == {4}
    assert padding_note(narrow, {}).startswith("4 KV groups in each layer instead of at most 3: a plain LlamaFor")
    assert padding_note(layout, {}) == ""


def test_the_card_says_what_this_is(small: LM, tmp_path: Path) -> None:
    protocol = {"corpus": "a | b", "window": 512, "tokens": 1024}
    measured = Report((Measurement("perplexity", "pruned", 17.25, 0.4, 8, protocol),))
    folder = save(small, tmp_path / "out", recipe={"allocation": {"sparsity": 0.3}}, measured=measured)
    card = (folder / "README.md").read_text()
    share = 1 - small.layout.prunable / small.dense.prunable
    assert f"removed {share:.1%} of the attention and MLP parameters of tiny.gguf" in card
    assert f"| parameters | {small.dense.parameters:,} | {small.layout.parameters:,} |" in card
    assert "| perplexity | 17.25 ± 0.4 (n = 8) | corpus a \\| b, window 512, tokens 1024 |" in card
    assert '"sparsity": 0.3' in card
    assert "trust_remote_code=True" in card and "nv.load_model" in card
    assert str(tmp_path) not in card
    uniform = (export_uniform(small, tmp_path / "uniform") / "README.md").read_text()
    assert "trust_remote_code" not in uniform and "padded with zeros" in uniform


def test_the_card_of_equal_widths_speaks_of_no_zeros(tiny_lm: LM, tmp_path: Path) -> None:
    plan = allocate(score(tiny_lm, None, criterion="magnitude"), sparsity=0.2, uniform=True)
    card = (export_uniform(prune(tiny_lm, plan), tmp_path / "out") / "README.md").read_text()
    assert "the same widths" in card and "zeros" not in card


def test_the_card_repeats_the_bases_licence(tiny_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "base")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Base\n")
    lm = load_model(folder, device="cpu")
    once = save(prune(lm, uneven_plan(lm)), tmp_path / "once")
    shutil.rmtree(folder)
    again = load_model(once, device="cpu")
    for card in (once, save(prune(again, uneven_plan(again, seed=5)), tmp_path / "twice")):
        text = (card / "README.md").read_text()
        assert "license: mit" in text and "licence, mit, applies" in text


def test_a_gguf_header_names_the_licence(tmp_path: Path) -> None:
    for licence in ("", "apache-2.0"):
        path = write_gguf(tmp_path / f"model{licence}.gguf", "llama", tiny("Llama"), licence=licence)
        card = (save(load_model(path, device="cpu"), tmp_path / "out") / "README.md").read_text()
        assert (f"license: {licence}" in card) == bool(licence)
        assert ("do not name a licence" in card) == (not licence)
