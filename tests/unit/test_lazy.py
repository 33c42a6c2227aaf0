"""Models whose weights stay on disk: the same results as in memory, one block in memory at a time."""

from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nirvana as nv
from nirvana.calibration.sets import CalibrationSet
from nirvana.cli import main
from nirvana.compensation import METHODS, Compensation
from nirvana.errors import ModelError, NirvanaError, SaliencyError
from nirvana.files import read_json, write_json
from nirvana.models.lazy import BlockLoader
from nirvana.models.spill import Spill
from nirvana.reporting.code import python_code
from nirvana.runs.validation import check_recipe
from nirvana.saliency import budget
from nirvana.saliency.criteria import CRITERIA, available
from tests.conftest import write_tiny_model
from tests.oracle import nirvana_scores

TINY = ("tiny-llama", "tiny-qwen3")
WINDOW = 32


@pytest.fixture(scope="module", params=TINY)
def pair(request: pytest.FixtureRequest) -> tuple[nv.LM, nv.LM]:
    """The same model with its weights on disk, and in memory."""
    lazy, memory = (nv.load_model(request.param, device="cpu", weights=how) for how in ("lazy", "memory"))
    return lazy, memory


@pytest.fixture
def text() -> str:
    return Path(__file__).read_text(encoding="utf-8") + Path(budget.__file__).read_text(encoding="utf-8")


def samples(lm: nv.LM, count: int = 5, *, seed: int = 0) -> CalibrationSet:
    vocabulary = lm.family.geometry(lm.settings)["vocabulary"]
    return CalibrationSet(np.random.default_rng(seed).integers(3, min(300, vocabulary), (count, WINDOW)))


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("criterion", available())
def test_scores_are_those_in_memory(pair: tuple[nv.LM, nv.LM], criterion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "CPU_TOKENS", 2 * WINDOW)  # several micro-batches
    lazy, _ = pair
    before = lazy.disk.reads if lazy.disk else 0
    found, expected = (nv.score(lm, samples(lm), criterion=criterion) for lm in pair)
    if "micro_batch" in found.details:
        assert found.details["micro_batch"] in (1, 2)
    largest = max(np.abs(values).max() for values in expected.values())
    for site, values in expected.items():
        assert np.abs(found[site] - values).max() <= 1e-5 * largest, site
    assert lazy.disk is not None
    layers = len(lazy.layout.layers())
    directions = {"nothing": 1, "activations": 2, "gradients": 4}[CRITERIA[criterion].reads]
    assert lazy.disk.reads - before <= directions * layers  # however many batches


def test_scores_with_padding_are_those_of_plain_autograd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "CPU_TOKENS", 2 * WINDOW)
    folder = write_tiny_model(tmp_path / "model", attention_bias=True)
    lazy, memory = (nv.load_model(folder, device="cpu", weights=how) for how in ("lazy", "memory"))
    mask = np.ones((5, WINDOW), np.int64)
    mask[1, 20:] = mask[4, 7:] = 0
    padded = CalibrationSet(samples(lazy).tokens, mask)
    found, expected = nv.score(lazy, padded), nirvana_scores(memory, padded)
    largest = max(np.abs(values).max() for values in expected.values())
    for site, values in expected.items():
        assert np.abs(found[site] - values).max() <= 1e-4 * largest, site


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str) -> None:
    lazy, memory = (nv.load_model(TINY[0], device="cpu", dtype=dtype, weights=how) for how in ("lazy", "memory"))
    found, expected = nv.score(lazy, samples(lazy)), nv.score(memory, samples(memory), strategy="recompute")
    assert all(np.array_equal(found[site], expected[site]) for site in expected)


def test_hidden_states_on_disk_change_nothing(pair: tuple[nv.LM, nv.LM], monkeypatch: pytest.MonkeyPatch) -> None:
    lazy, _ = pair
    expected = nv.score(lazy, samples(lazy))
    written: list[int] = []
    put = Spill.put

    def counted(self: Spill, tensor: torch.Tensor) -> Any:
        written.append(tensor.nbytes)
        return put(self, tensor)

    monkeypatch.setattr(Spill, "put", counted)
    for module in ("nirvana.forward.replay", "nirvana.saliency.streamed"):
        monkeypatch.setattr(f"{module}.BUDGET", 3 * WINDOW * 256 * 4)
    found = nv.score(lazy, samples(lazy))
    assert len(written) >= len(lazy.layout.layers())
    assert all(np.array_equal(found[site], expected[site]) for site in expected)


def test_measurements_are_those_in_memory(pair: tuple[nv.LM, nv.LM], text: str) -> None:
    lazy, memory = pair
    assert lazy.disk is not None and lazy.hash == memory.hash
    before = lazy.disk.reads
    perplexities = [nv.perplexity(lm, text, window=64, max_tokens=1024) for lm in pair]
    assert 0 < lazy.disk.reads - before <= len(lazy.layout.layers())  # for two batches of windows
    assert perplexities[0].value == pytest.approx(perplexities[1].value, rel=1e-6)
    scores = nv.score(memory, samples(memory))
    probe = samples(lazy, 3, seed=1)
    curves = [nv.sensitivity(lm, scores, probe, levels=(0.3,)).curves for lm in pair]
    for site, curve in curves[1].items():
        assert curves[0][site][0].kl == pytest.approx(curve[0].kl, rel=1e-5, abs=1e-9), site
    assert torch.equal(*(lm.module()(torch.arange(9)[None]).logits for lm in pair))  # masks were taken off again
    accuracies = [nv.zero_shot(lm, "minimal-pairs", items=1) for lm in pair]
    for found, expected in zip(*(accuracy.tasks for accuracy in accuracies), strict=True):
        assert np.array_equal(found.correct["acc"], expected.correct["acc"])


@pytest.mark.parametrize("compensation", METHODS)
@pytest.mark.parametrize("method", ["shared", "layers"])
def test_pruned_models_are_saved_as_those_in_memory(
    pair: tuple[nv.LM, nv.LM],
    compensation: Compensation,
    method: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    monkeypatch.setattr("nirvana.checkpoints.saving.SHARD_BYTES", 1 << 21)
    whole = method == "layers"
    scores = nv.score(pair[1], samples(pair[1]), criterion="block-influence" if whole else "nirvana")
    plan = nv.allocate(scores, sparsity=0.3, method="published" if whole else "shared")
    assert bool(plan.removed_layers) is whole
    pruned = []
    for lm, name in zip(pair, ("lazy", "memory"), strict=True):
        statistics = nv.collect_statistics(lm, samples(lm))
        pruned.append(nv.prune(lm, plan, compensation=compensation, statistics=statistics))
        nv.save(pruned[-1], tmp_path / name)
    assert hashes(tmp_path / "lazy") == hashes(tmp_path / "memory")
    assert len(list((tmp_path / "lazy").glob("*.safetensors"))) > 1
    assert pruned[0].disk is not None and pruned[0].hash == pruned[1].hash
    probe = samples(pair[0], 3, seed=1)
    found, expected = (nv.divergence(dense, small, probe).mean for dense, small in zip(pair, pruned, strict=True))
    assert found == pytest.approx(expected, rel=1e-5) and found > 0
    again = [nv.load_model(tmp_path / "lazy", device="cpu", weights=how) for how in ("lazy", "memory")]
    values = [nv.perplexity(lm, text, window=64, max_tokens=256).value for lm in again]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_pruned_model_is_pruned_again_after_the_first_was_unloaded(tmp_path: Path) -> None:
    folders = []
    for how in ("lazy", "memory"):
        lm = nv.load_model(TINY[0], device="cpu", weights=how)
        current = nv.prune_iteratively(
            lm, samples(lm), sparsity=0.3, steps=2, compensation="least_squares", windows=samples(lm)
        )
        folders.append(nv.save(current.lm, tmp_path / how))
    assert hashes(folders[0]) == hashes(folders[1])


def refused(lm: nv.LM, folder: Path) -> list[Callable[[], object]]:
    """Calls that need all weights."""
    scores, probe = nv.score(lm, None, criterion="magnitude"), samples(lm, 2)
    plan, corpus = nv.allocate(scores, sparsity=0.2), nv.load_corpus("python-docs")
    return [
        lambda: nv.recover(lm, corpus, teacher=lm),
        lambda: nv.measure_speed({"dense": lm}),
        lambda: nv.quantise(lm, "int8"),
        lambda: nv.export_uniform(lm, folder / "uniform"),
        lambda: nv.kernel_shift(lm, plan, probe),
        lambda: nv.ablate_units(lm, scores, probe, count=4),
        lambda: nv.generate_corpus(lm, tokens=384),
    ]


@pytest.mark.parametrize("index", range(7))
def test_what_needs_all_weights_is_refused(index: int, tmp_path: Path) -> None:
    lm = nv.load_model(TINY[0], device="cpu", weights="lazy")
    with pytest.raises(NirvanaError) as error:
        refused(lm, tmp_path)[index]()
    assert "lazy" in str(error.value) and not any(tmp_path.iterdir())


def test_models_that_cannot_stay_on_disk_are_refused(tmp_path: Path) -> None:
    for name, words in (("tiny-t5", "encoder"), ("smollm2-135m", "GGUF")):
        with pytest.raises(ModelError, match=words):
            nv.load_model(name, weights="lazy")
    with pytest.raises(ModelError, match="memory or lazy"):
        nv.load_model(TINY[0], weights="disk")  # type: ignore[arg-type]
    lm = nv.load_model(TINY[0], device="cpu", weights="lazy")
    with pytest.raises(SaliencyError, match="recompute"):
        nv.score(lm, samples(lm), strategy="micro-batches")


def test_damage_is_found_when_a_block_is_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_tiny_model(tmp_path / "model")
    lm = nv.load_model(folder, device="cpu", weights="lazy")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="has changed"):
        nv.score(lm, None, criterion="magnitude")
    again = nv.load_model(folder, device="cpu", weights="lazy")
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN"):
        nv.score(again, None, criterion="magnitude")
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "intermediate_size": 40})
    with pytest.raises(NirvanaError, match="instead of"):
        nv.load_model(folder, device="cpu", weights="lazy")


def test_recipes_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    default = nv.Recipe()
    lazy = default.change("model", weights="lazy", name=TINY[0], device="cpu")
    assert "weights" not in default.to_json()["model"] and lazy.to_json()["model"]["weights"] == "lazy"
    assert nv.Recipe.from_json(lazy.to_json()) == lazy and lazy.fingerprint("model") != default.fingerprint("model")
    assert 'weights="lazy"' in python_code(lazy, "model") and "weights" not in python_code(default, "model")
    with pytest.raises(ModelError, match="trained"):
        check_recipe(lazy.change("recovery", method="lora"))
    plain = ["score", "--model", TINY[0], "--device", "cpu", "--criterion", "magnitude", "--output"]
    assert main([*plain, str(tmp_path / "memory.npz")]) == main(
        [*plain, str(tmp_path / "lazy.npz"), "--weights", "lazy"]
    )
    found = [nv.Saliency.from_bytes((tmp_path / f"{how}.npz").read_bytes()) for how in ("lazy", "memory")]
    assert found[0].hash == found[1].hash
    capsys.readouterr()


def most_blocks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """The most blocks in memory at once while a model is scored and pruned, and how many were read: sets of tensors
    that are alive.
    """
    alive: dict[int, int] = {}
    most = [0]
    values = BlockLoader._values

    def counted(self: BlockLoader, index: int) -> Any:
        found = values(self, index)
        key = len(alive)
        alive[key] = len(found)
        for tensor in found:
            weakref.finalize(tensor, lambda: alive.update({key: alive[key] - 1}))
        most[0] = max(most[0], sum(left > 0 for left in alive.values()))
        return found

    gc.collect()
    with monkeypatch.context() as patch:
        patch.setattr(BlockLoader, "_values", counted)
        lm = nv.load_model(folder, device="cpu", weights="lazy")
        scores = nv.score(lm, samples(lm, 4))
        small = nv.prune(lm, nv.allocate(scores, sparsity=0.3))
        nv.divergence(lm, small, samples(lm, 2))
    return most[0], len(alive)


def test_the_number_of_blocks_in_memory_does_not_grow_with_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for layers in (4, 16):
        folder = write_tiny_model(tmp_path / str(layers), num_hidden_layers=layers)
        found[layers] = most_blocks(folder, monkeypatch)
    assert max(found[4][0], found[16][0]) <= 4  # two models, each with the next block read ahead
    assert found[16][1] >= 3 * 16  # the blocks did pass through memory
