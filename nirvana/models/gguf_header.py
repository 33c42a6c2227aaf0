"""Header of a GGUF file; every count is checked against the file before use."""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

from nirvana.files import regular_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_BYTES = 1 << 28  # of a header; one with 256,000 tokens has about 10 MB
MOST_DIMENSIONS = 8
ALIGNMENT = 32  # bytes, where the header names no other
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class GGUFTensor(NamedTuple):
    """A tensor of the header: its type, e.g. "Q4_1", and its shape, the fastest dimension first."""

    kind: str
    shape: tuple[int, ...]


class GGUFHeader(NamedTuple):
    """Key -> value (a number, a text, or a list of either) and tensor name -> description, in the file's order."""

    values: dict[str, Any]
    tensors: dict[str, GGUFTensor]


def read_header(path: Path) -> GGUFHeader:
    """The header of a GGUF file. No tensor is read, but all must lie within the file.

    Raises:
        OSError: the file is missing, not a regular file, or cannot be read.
        ValueError: it is not a GGUF file, truncated or damaged.
    """
    regular_file(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != MAGIC:
            raise ValueError("it does not begin with GGUF")
        cursor = _Cursor(data, "<" if data[4:6] != b"\0\0" else ">")
        version, tensors, values = cursor.numbers("I")[0], *cursor.numbers("Q", 2)
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}")
        found: dict[str, Any] = {}
        for _ in range(values):
            _add(found, cursor.text(), cursor.value(cursor.numbers("I")[0]))
        described: dict[str, tuple[Any, ...]] = {}
        for _ in range(tensors):
            name, (dimensions,) = cursor.text(), cursor.numbers("I")
            if dimensions > MOST_DIMENSIONS:
                raise ValueError(f"{name[:60]} has {dimensions:,} dimensions")
            _add(described, name, (cursor.numbers("Q", dimensions), *cursor.numbers("I"), *cursor.numbers("Q")))
        start = _aligned(cursor.place, found.get("general.alignment", ALIGNMENT))
        return GGUFHeader(found, {name: _tensor(name, len(data) - start, *each) for name, each in described.items()})


class _Cursor:
    """Values one after another; each read ends within the file and within `MOST_BYTES`."""

    def __init__(self, data: mmap.mmap, order: str) -> None:
        self.data, self.order, self.place = data, order, len(MAGIC)
        self.size, self.end = struct.Struct(order + "Q"), min(len(data), MOST_BYTES)

    def _take(self, size: int) -> int:
        """Pass over `size` bytes; the place where they begin."""
        start, self.place = self.place, self.place + size
        if self.place > self.end:
            raise ValueError("it is truncated" if self.place > len(self.data) else "its header is too large")
        return start

    def numbers(self, kind: str, count: int = 1) -> tuple[Any, ...]:
        start = self._take(struct.calcsize(self.order + kind) * count)
        return struct.unpack_from(f"{self.order}{count}{kind}", self.data, start)

    def text(self) -> str:
        length: int = self.size.unpack_from(self.data, self._take(8))[0]  # thousands of them: compiled once
        start = self._take(length)
        return self.data[start : start + length].decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.numbers(SCALARS[kind])[0]
        if kind != ARRAY:
            raise ValueError(f"it has values of an unknown type, {kind}")
        inner, count = self.numbers("I")[0], self.numbers("Q")[0]
        if inner == STRING:
            return [self.text() for _ in range(count)]
        if inner not in SCALARS:
            raise ValueError(f"it has lists of an unknown type, {inner}")
        return list(self.numbers(SCALARS[inner], count))


def _add(found: dict[str, Any], name: str, value: Any) -> None:
    if name in found:
        raise ValueError(f"{name[:60]!r} occurs twice")
    found[name] = value


def _aligned(place: int, alignment: Any) -> int:
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its alignment is {str(alignment)[:20]}")
    return -(-place // alignment) * alignment


def _tensor(name: str, room: int, shape: tuple[int, ...], kind: int, offset: int) -> GGUFTensor:
    """The description of a tensor that lies within the `room` bytes after the header."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    known = GGMLQuantizationType(kind)
    block, size = GGML_QUANT_SIZES[known]
    if shape and shape[0] % block:
        raise ValueError(f"{name[:60]} has rows of {shape[0]:,} values in blocks of {block}")
    if offset + math.prod(shape) // block * size > room:
        raise ValueError(f"it is truncated: {name[:60]} ends beyond it")
    return GGUFTensor(known.name, shape)
