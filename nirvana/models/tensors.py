"""The tensors of a folder of safetensors, each checked as it is read. Pickles are never opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        with _opened(file) as reader:
            names = list(reader.keys())
            for done, name in enumerate(names):
                report(progress, f"Reading {file.name}", done, len(names))
                tensors[name] = checked(name, reader.get_tensor(name), _dtype(name, dtype, kept_in_float32))
    return tensors


class Checkpoint:
    """The tensors of safetensors files, each read when it is needed.

    Args:
        files: see `weight_files`.
        dtype: that tensors are read as.

    Raises:
        CheckpointError: a file is truncated or not safetensors.
    """

    def __init__(self, files: list[Path], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._files: dict[str, Path] = {}
        self._stamps = {file: _stamp(file) for file in files}
        self.stand_ins: dict[str, torch.Tensor] = {}
        for file in files:
            with _opened(file) as reader:
                for name in reader.keys():  # noqa: SIM118 - the reader is no dictionary
                    part = reader.get_slice(name)
                    if not part.get_dtype().startswith(("F", "BF")):
                        checked(name, reader.get_tensor(name), dtype)  # which refuses it
                    self._files[name] = file
                    self.stand_ins[name] = torch.zeros((), dtype=dtype).expand(part.get_shape())
        self._names = {tensor.data_ptr(): name for name, tensor in self.stand_ins.items()}

    def name_of(self, weight: torch.Tensor) -> str:
        """The name of the tensor whose stand-in became `weight`.

        Raises:
            ModelError: none did.
        """
        name = self._names.get(weight.data_ptr())
        if name is None or weight.shape != self.stand_ins[name].shape:
            raise ModelError(
                "A weight of this model is made from several tensors of the checkpoint.",
                'Load it without weights="lazy", or save it again with the library.',
            )
        return name

    def source(self, name: str) -> Callable[[], torch.Tensor]:
        """A function that reads a tensor as `dtype`, in memory of its own, and checks it as `read_tensors` does."""
        return lambda: checked(name, self.pages(name), self.dtype)

    def pages(self, name: str) -> torch.Tensor:
        """A tensor as it is stored: pages of the file, which take no memory that the system cannot reclaim.

        Raises:
            ModelError: the file has changed.
            CheckpointError: it cannot be read.
        """
        file = self._files[name]
        with _opened(file) as reader:
            if _stamp(file) != self._stamps[file]:
                raise ModelError(f"{file.name} has changed since the model was loaded.", "Load the model again.")
            tensor: torch.Tensor = reader.get_tensor(name)
        return tensor


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as reader:
            yield reader
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file.name} is truncated or not a safetensors file: {error}.", "Download or save the model again."
        ) from error


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _dtype(name: str, dtype: torch.dtype, kept_in_float32: Container[str]) -> torch.dtype:
    return torch.float32 if dtype == torch.float16 and name.split(".")[-2:][0] in kept_in_float32 else dtype


def checked(name: str, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A copy of a stored tensor as `dtype`.

    Raises:
        ModelError: it holds NaN or infinity, or is quantised.
    """
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
