"""Weights of a recovered model in a file, for the pruned model that they belong to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

from nirvana.errors import RecoveryError
from nirvana.files import content_hash
from nirvana.models.lm import LM
from nirvana.recovery.history import RecoveryHistory


def recovered_from(small: LM, model: Any, history: RecoveryHistory) -> LM:
    """The LM of a trained copy of `small`'s module."""
    return replace(
        small,
        model=model,
        config=model.config,
        compute_hash=lambda: weights_hash(model.state_dict()),
        recoveries=(*small.recoveries, history.record),
        history=history,
    )


def write_weights(healed: LM, path: Path) -> None:
    """Write the weights, tied ones once; `path` is whole or absent.

    Raises:
        RecoveryError: the disk is full or not writable.
    """
    partial = path.with_name(f".{path.name}")
    try:
        save_model(healed.weights(), str(partial))
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise RecoveryError(f"The recovered model cannot be saved: {error}.", "Free some disk space.") from error


def read_weights(small: LM, path: Path, history: RecoveryHistory) -> LM:
    """The recovered model whose weights `write_weights` wrote, from the pruned model that was trained.

    Raises:
        RecoveryError: they are missing, damaged, or of another model.
    """
    model: Any = copy.deepcopy(small.weights())
    try:
        load_model(model, str(path), device=str(small.device))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise RecoveryError(f"The recovered model cannot be read: {error}.", "Recover it again.") from error
    return recovered_from(small, model.eval(), history)


def weights_hash(weights: Mapping[str, torch.Tensor]) -> str:
    """Hash of names and values, 64 hex digits."""
    parts = ((name, values.detach().cpu().contiguous().flatten().view(torch.uint8)) for name, values in weights.items())
    return content_hash(*(each for name, raw in parts for each in (name, raw.numpy().tobytes())))
