"""The tensors of a folder of safetensors, each checked as it is read. Pickles are never opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from pathlib import Path

import torch

from nirvana.errors import CheckpointError, ModelError
from nirvana.files import read_json
from nirvana.progress import ProgressCallback, report


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a model, in order.

    Raises:
        CheckpointError: the index names a file that is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
            files = [folder / Path(name).name for name in names]  # an index may not point outside its folder
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index.name} cannot be read: {error}.", "Download the model again.") from error
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise CheckpointError(
            f"Weights are missing: {', '.join(missing) or '*.safetensors'}.", "Download the model completely."
        )
    return files


def read_tensors(
    files: list[Path],
    dtype: torch.dtype,
    progress: ProgressCallback | None,
    kept_in_float32: Container[str] = (),
) -> dict[str, torch.Tensor]:
    """Name -> tensor on the CPU, as `dtype`, in memory of its own, so later changes of the file have no effect. Layers
    in `kept_in_float32` are read in float32 where `dtype` is float16, so their stored precision is not lost.

    Raises:
        CheckpointError: a file is truncated or not safetensors.
        ModelError: a tensor holds NaN or infinity, or is quantised.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as reader:
                names = list(reader.keys())
                for done, name in enumerate(names):
                    report(progress, f"Reading {file.name}", done, len(names))
                    exact = dtype == torch.float16 and name.split(".")[-2:][0] in kept_in_float32
                    tensors[name] = _checked(name, reader.get_tensor(name), torch.float32 if exact else dtype)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file.name} is truncated or not a safetensors file: {error}.", "Download or save the model again."
            ) from error
    return tensors


def _checked(name: str, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not stored.is_floating_point():
        raise ModelError(
            f"The tensor {name} holds {str(stored.dtype).removeprefix('torch.')}: quantised weights are not supported.",
            "Use the model in its original precision, or a GGUF file.",
        )
    tensor = stored.to(dtype, copy=True)
    low, high = torch.aminmax(tensor) if tensor.numel() else (tensor.new_zeros(()), tensor.new_zeros(()))
    if not (torch.isfinite(low) and torch.isfinite(high)):  # both propagate NaN
        raise ModelError(
            f"The tensor {name} holds NaN or infinity as {str(dtype).removeprefix('torch.')}.",
            "Download the model again, or try dtype float32.",
        )
    return tensor


STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names


def stored_dtype(files: list[Path]) -> str:
    """The floating-point type of most tensors, e.g. "bfloat16"; "" where it is none that models compute in."""
    from safetensors import safe_open

    kinds: Counter[str] = Counter()
    for file in files:
        with safe_open(file, framework="pt") as reader:
            kinds.update(reader.get_slice(name).get_dtype() for name in reader.keys())  # noqa: SIM118 - no mapping
    return STORED.get(max(kinds, key=kinds.__getitem__, default=""), "")
