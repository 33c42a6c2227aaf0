"""Tensors in a temporary file, which the system removes with the process, also if that is killed."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from typing import IO, NamedTuple

import numpy as np
import torch

from nirvana.errors import NirvanaError
from nirvana.files import cache_folder


class Slot(NamedTuple):
    """A stored tensor."""

    offset: int  # in bytes
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Spill:
    """Stores tensors in a file of the cache folder: temporary folders are often in memory themselves.

    Raises:
        NirvanaError: the disk is full or not writable, from every method that writes.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._end = 0
        self._free: dict[int, list[int]] = defaultdict(list)  # bytes -> offsets

    def put(self, tensor: torch.Tensor) -> Slot:
        """Store a copy of a tensor."""
        slot = self.reserve(tuple(tensor.shape), tensor.dtype)
        self.write(slot, 0, tensor)
        return slot

    def reserve(self, shape: tuple[int, ...], dtype: torch.dtype) -> Slot:
        """A slot whose values are written later; one that was freed is used again."""
        slot = Slot(0, shape, dtype)
        free = self._free[slot.bytes]
        if free:
            return slot._replace(offset=free.pop())
        slot = slot._replace(offset=self._end)
        self._end += -(-slot.bytes // 64) * 64  # aligned, as vector instructions prefer
        return slot

    def write(self, slot: Slot, row: int, values: torch.Tensor) -> None:
        """Write some rows of a slot, from `row` on."""
        content = values.detach().to("cpu", slot.dtype).contiguous().flatten().view(torch.uint8).numpy()
        size = slot.bytes // slot.shape[0] if slot.shape else 0
        try:
            file = self._opened()
            file.seek(slot.offset + row * size)
            content.tofile(file)
        except OSError as error:
            raise NirvanaError(
                f"Values of the model could not be written to {cache_folder()}: {error.strerror or error}.",
                "Free some space on that disk, or set NIRVANA_HOME to a folder on another.",
            ) from error

    def get(self, slot: Slot) -> torch.Tensor:
        """A copy of a stored tensor, on the CPU."""
        file = self._opened()
        file.seek(slot.offset)
        return torch.from_numpy(np.fromfile(file, np.uint8, slot.bytes)).view(slot.dtype).view(slot.shape)

    def mapped(self, slot: Slot) -> torch.Tensor:
        """A stored tensor as pages of the file, which take no memory that the system cannot reclaim."""
        file = self._opened()
        file.flush()
        pages = np.memmap(file, np.uint8, "c", slot.offset, (slot.bytes,))
        return torch.from_numpy(pages).view(slot.dtype).view(slot.shape)

    def free(self, slot: Slot) -> None:
        """Free a slot for a later tensor of the same size."""
        self._free[slot.bytes].append(slot.offset)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            cache_folder().mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=cache_folder(), buffering=0)  # noqa: SIM115 - open as long as this
        return self._file
