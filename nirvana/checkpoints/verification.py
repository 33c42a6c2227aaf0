"""Verify that an export, read back from its files, computes the model's logits."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nirvana.checkpoints.gguf_export import GGML_NAMES, header, stored_dtype
from nirvana.checkpoints.gguf_tokenizer import open_gguf, value_of
from nirvana.checkpoints.placing import GGUF_SUFFIX
from nirvana.checkpoints.remote_code import MODULE, class_name, remote_code
from nirvana.checkpoints.saving import in_dtype, own_tensors
from nirvana.checkpoints.sizes import ITEM_BYTES
from nirvana.errors import CheckpointError
from nirvana.files import read_file
from nirvana.models.gguf_names import gguf_name
from nirvana.models.gguf_own import own_tensors_of
from nirvana.models.lm import LM
from nirvana.models.loading import build_model, load_model
from nirvana.models.quiet import quiet_library
from nirvana.models.sources import read_config
from nirvana.progress import ProgressCallback, report, within

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLES, LENGTH = 2, 24
# Tolerated difference of logits, relative to the largest logit, where the order of summation or the dtype changes.
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
HINT = "Check the disk and export again; if it happens twice, report it."


@dataclass(frozen=True)
class Verification:
    """Checks of an export that was read back.

    `difference` is the largest difference of logits from the model's (0: bit-equal), `scale` the largest logit.
    `checks` describe what was read and run.
    """

    difference: float
    scale: float
    checks: tuple[str, ...]


def verify_export(lm: LM, path: str | os.PathLike[str], *, progress: ProgressCallback | None = None) -> Verification:
    """Read an export of `lm` back, run a forward pass and compare the logits.

    A checkpoint must hold every weight rounded to its dtype; where that changes none, logits are bit-equal. The code in
    its folder must give the logits of `load_model`. A uniform checkpoint may differ by rounding. A GGUF file must hold
    every weight rounded to its dtype, and give the logits of `lm` in torch up to that rounding; llama.cpp itself is not
    run.

    Args:
        lm: the exported model, with its weights in memory.
        path: a folder from `save` or `export_uniform`, or a .gguf file from `export_gguf`.
        progress: called after each part; may raise `Cancelled`.

    Raises:
        CheckpointError: something is missing, or the logits differ.
        ModelError: it cannot be read.
    """
    target = Path(path)
    if target.suffix == GGUF_SUFFIX:
        return _verify_gguf(lm, target, progress)
    return _verify_folder(lm, target, progress)


def _verify_folder(lm: LM, folder: Path, progress: ProgressCallback | None) -> Verification:
    expected = _logits(lm, lm.weights())
    dtype, settings = str(lm.dtype).removeprefix("torch."), read_config(folder)
    again = load_model(folder, device=str(lm.device), dtype=dtype, progress=within(progress, "Reading back", 0, 2))
    exact = again.layout == lm.layout
    if not exact and again.is_pruned:
        raise CheckpointError("The written checkpoint has other sizes than the model.", HINT)
    stored = str(settings["dtype"])
    rounded = _differ_by_rounding(lm, again, stored) if exact else ITEM_BYTES[stored] < lm.dtype.itemsize
    precision = max((lm.dtype, getattr(torch, stored)), key=lambda kind: ROUNDING[kind])
    logits = _logits(lm, again.weights())
    found = _compare(expected, logits, 0.0 if exact and not rounded else ROUNDING[precision])
    again.unload()
    checks = ["read back with load_model" + (f", every weight rounded to {stored}" if rounded else ", bit-equal")]
    if not exact and not rounded:
        checks = ["read back with load_model"]
    if "auto_map" in settings:
        report(progress, "Reading back with the checkpoint's own code", 1, 2)
        _compare(logits, _logits(lm, _load_with_code(lm, folder)), 0.0)
        checks.append("read back with the code in the folder, bit-equal")
    report(progress, "Reading back", 2, 2)
    return Verification(*found, tuple(checks))


def _differ_by_rounding(lm: LM, again: LM, dtype: str) -> bool:
    """Whether rounding to the dtype of the files changed a weight.

    Raises:
        CheckpointError: a weight read back is not the model's, rounded.
    """
    changed, read = False, dict(own_tensors(again.weights()))
    for name, tensor in own_tensors(lm.weights()):
        rounded = in_dtype(name, tensor, dtype, lm.dtype).to(tensor.dtype)
        if not torch.equal(read[name], rounded):
            raise CheckpointError(f"{name}, read back, differs from the model.", HINT)
        changed = changed or not torch.equal(rounded, tensor)
    return changed


def _load_with_code(lm: LM, folder: Path) -> PreTrainedModel:
    """The model built by the code in the folder, if it is the code that `save` writes.

    Raises:
        CheckpointError: it is other code, which is not run.
    """
    code = folder / f"{MODULE}.py"
    source = remote_code(lm.layout.architecture)
    if not code.is_file() or read_file(code) != source.encode():
        raise CheckpointError(f"{code.name} is not the code that was written; it was not run.", HINT)
    module = ModuleType(f"{__name__}.{MODULE}")
    exec(compile(source, str(code), "exec"), module.__dict__)
    sys.modules[module.__name__] = module  # the library looks up the module of a class here
    try:
        with quiet_library():
            model = getattr(module, class_name(lm.layout.architecture)).from_pretrained(folder, dtype=lm.dtype)
    finally:
        del sys.modules[module.__name__]
    model.requires_grad_(False).eval()
    moved: PreTrainedModel = model.to(lm.device)
    return moved


def _verify_gguf(lm: LM, path: Path, progress: ProgressCallback | None) -> Verification:
    reader = open_gguf(path)
    stored = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    dtype = next(name for name, raw in GGML_NAMES.items() if raw == stored.tensor_type.name)
    for key, value in header(lm, dtype).items():
        written = value_of(reader, key)
        if written != (float(np.float32(value)) if isinstance(value, float) else value):
            raise CheckpointError(f"{path.name} has {key} = {written!r} instead of {value!r}.", HINT)
    state, names = {}, dict(own_tensors(lm.weights()))
    for done, (name, read) in enumerate(own_tensors_of(path)):
        report(progress, "Reading the GGUF file back", done, len(names))
        rounded = names[name].to("cpu", getattr(torch, stored_dtype(names[name], dtype))) if name in names else None
        if rounded is None or not torch.equal(read.float(), rounded.float()):
            raise CheckpointError(f"{gguf_name(name)} in {path.name} differs from the model.", HINT)
        state[name] = read.to(lm.dtype)
    if state.keys() != names.keys():
        raise CheckpointError(f"{min(names.keys() - state.keys())} is not in {path.name}.", HINT)
    built: Any = build_model(lm.config, lm.family, lm.layout, state, lm.dtype)
    built.requires_grad_(False).eval()
    precision = max((lm.dtype, getattr(torch, dtype)), key=lambda kind: ROUNDING[kind])
    found = _compare(_logits(lm, lm.weights()), _logits(lm, built.to(lm.device)), ROUNDING[precision])
    report(progress, "Reading the GGUF file back", len(names), len(names))
    return Verification(*found, (f"every tensor read back as {dtype}", "computed in torch from the file's weights"))


def _logits(lm: LM, model: PreTrainedModel) -> torch.Tensor:
    """(samples, positions, vocabulary) of `model`, a form of `lm`, in float32 on the CPU, for tokens of the whole
    vocabulary.
    """
    vocabulary = lm.family.geometry(lm.settings)["vocabulary"]
    ids = torch.arange(1, SAMPLES * LENGTH + 1).reshape(SAMPLES, LENGTH) * 7919 % vocabulary
    with torch.inference_mode():
        inputs = {"input_ids": ids.to(model.device)}
        if lm.family.encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits.float().cpu()


def _compare(expected: torch.Tensor, found: torch.Tensor, tolerance: float) -> tuple[float, float]:
    """Largest difference and largest logit.

    Raises:
        CheckpointError: the difference is above `tolerance`, a share of the largest logit, or not a number.
    """
    difference = float((found - expected).abs().max())
    scale = float(expected.abs().max())
    if not difference <= tolerance * scale:
        raise CheckpointError(
            f"The export does not compute the model's logits: values up to {scale:.3g} differ by {difference:.3g}.",
            HINT,
        )
    return difference, scale
