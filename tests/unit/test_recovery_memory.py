"""Activations computed again in the backward pass: the same gradients in less memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import nirvana as nv
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.registry import load_corpus
from nirvana.models.lm import LM
from nirvana.models.loading import load_model
from nirvana.recovery.budget import activation_bytes
from nirvana.recovery.options import RecoveryOptions
from nirvana.recovery.trainer import Trainer
from tests.recoveries import SHORT, pruned, same_weights


@pytest.fixture(scope="module")
def text(sample_text: Path) -> Corpus:
    return load_corpus(str(sample_text))


@pytest.fixture(scope="module")
def dense() -> LM:
    return load_model("tiny-llama", device="cpu", dtype="float32")


def kept_bytes(run: Callable[[], Any], model: torch.nn.Module) -> int:
    """Bytes of the tensors that are kept for the backward pass, without the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = run()
    del alive
    return sum(kept.values())


@pytest.mark.parametrize("values", [{"method": "full"}, {"method": "lora", "dropout": 0.3}, {"rank": 4}], ids=str)
def test_gradients_are_the_same(values: dict[str, Any], dense: LM, text: Corpus) -> None:
    small, gradients = pruned(dense), []
    for choice in ("always", "never"):
        options = RecoveryOptions(**SHORT | values | {"checkpointing": choice})
        trainer = Trainer(small, text, dense, options)
        step = trainer.step(1e-3, lambda: None)
        gradients.append([weight.grad for weight in trainer.trained.values()])
        assert trainer.checkpointing == (choice == "always") and step.gradient_norm > 0
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize(("name", "method"), [("tiny-llama", "full"), ("tiny-llama", "lora"), ("tiny-t5", "full")])
def test_the_estimate_covers_what_the_blocks_keep(name: str, method: str, text: Corpus) -> None:
    lm = load_model(name, device="cpu", dtype="float32")
    found = []
    for choice in ("never", "always"):
        options = RecoveryOptions(**SHORT | {"method": method, "length": 128, "checkpointing": choice})
        trainer = Trainer(lm, text, None, options)
        trainer.step(1e-3, lambda: None)  # in training mode from here
        batch = next(trainer.batches.of_step(0))
        run = partial(lm.family.hidden_states, trainer.model, batch.input_ids, None, batch.decoder_input_ids)
        found.append(kept_bytes(run, trainer.model))
        estimate = activation_bytes(lm.sizes, options, 2, 128)
    assert found[0] < estimate < 2 * found[0]
    assert found[1] < 0.2 * found[0]


@pytest.mark.parametrize(("free", "expected"), [(1 << 40, False), (1 << 20, True)])
def test_it_is_chosen_where_memory_is_short(
    free: int, expected: bool, tiny_lm: LM, text: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nirvana.recovery.trainer.available_memory", lambda device: free)
    assert Trainer(tiny_lm, text, None, RecoveryOptions(**SHORT | {"method": "full"})).checkpointing is expected


def test_a_recovered_model_keeps_its_activations(tiny_lm: LM, text: Corpus) -> None:
    small, how = pruned(tiny_lm), SHORT | {"method": "lora", "held_out": {"own": text}, "tokens": 200}
    healed = nv.recover(small, text, checkpointing="always", **how)
    assert same_weights(healed, nv.recover(small, text, checkpointing="never", **how))
    model = healed.weights()
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
