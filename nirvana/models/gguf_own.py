"""GGUF files that this project wrote: the checkpoint's other files are in their header, under a key of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nirvana.errors import ModelError
from nirvana.files import parse_json, well_formed, write_bytes
from nirvana.models.gguf_header import read_header
from nirvana.models.gguf_names import FUSED, INPUTS, PAIRED, is_rotated, library_name, rotary_halves

KEY = "nirvana.files"
CONFIG = "config.json"
# Files that loading reads; others in the header are ignored.
NAMES = (
    CONFIG,
    "pruning.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
HINT = "Write the GGUF file again."


def own_files(path: Path) -> dict[str, str]:
    """Name -> text of the checkpoint's files in the header of a GGUF file; {} where another program wrote it.

    Raises:
        ModelError: the header or the files in it are damaged.
    """
    with well_formed(f"{path.name} is not a readable GGUF file", ModelError, HINT):
        try:
            packed = read_header(path).values.get(KEY)
        except OSError as error:
            raise ValueError(error.strerror or str(error)) from error
    return {} if packed is None else unpacked(packed, path.name)


def unpacked(packed: Any, name: str) -> dict[str, str]:
    """The files in a header's value.

    Raises:
        ModelError: they are damaged.
    """
    with well_formed(f"{KEY} in {name} cannot be read", ModelError, HINT):
        found = parse_json(packed)
        files = {file: found[file] for file in NAMES if file in found}
        if CONFIG not in files or not all(isinstance(text, str) for text in files.values()):
            raise ValueError("it does not hold the files of a checkpoint")
    return files


def packed(folder: Path) -> str:
    """The files of a checkpoint's folder as a header's value."""
    present = [folder / name for name in NAMES if (folder / name).is_file()]
    return json.dumps({file.name: file.read_text(encoding="utf-8") for file in present}, ensure_ascii=False)


def own_tensors_of(path: Path) -> Iterator[tuple[str, Any]]:
    """The library's name and the value of each tensor, in the file's dtype, quantised ones in float32.

    Raises:
        ModelError: a tensor is not of such a model.
    """
    import numpy as np
    import torch
    from gguf import GGUFReader, dequantize

    dtypes = {"F16": torch.float16, "BF16": torch.bfloat16}
    with well_formed(f"{path.name} cannot be converted", ModelError, HINT):
        values = read_header(path).values
        architecture = str(values["general.architecture"])
        head_dim = int(values[f"{architecture}.attention.key_length"])
        for tensor in GGUFReader(str(path)).tensors:
            array = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
            value = torch.from_numpy(array.copy()).reshape(tuple(int(size) for size in reversed(tensor.shape)))
            value = value.to(dtypes.get(tensor.tensor_type.name, torch.float32))
            try:
                parts = _split(tensor.name, value, values, architecture, head_dim)
                if architecture in PAIRED and is_rotated(tensor.name):
                    parts = [(tensor.name, rotary_halves(value, head_dim))]
            except RuntimeError as error:  # torch's, for shapes that do not fit
                raise ValueError(f"{tensor.name[:60]} has {tuple(value.shape)} values") from error
            yield from ((library_name(name), part) for name, part in parts)


def _split(name: str, value: Any, values: Any, architecture: str, head_dim: int) -> list[tuple[str, Any]]:
    """Queries, keys and values apart, where the file has them in one tensor."""
    if f".{FUSED}." not in name:
        return [(name, value)]
    counts = [values[f"{architecture}.attention.{key}"] for key in ("head_count", "head_count_kv", "head_count_kv")]
    layer = int(name.split(".")[1])
    heads = [count[layer] if isinstance(count, list) else count for count in counts]
    parts = value.split([count * head_dim for count in heads])
    return [(name.replace(FUSED, part), rows) for part, rows in zip(INPUTS, parts, strict=True)]


def write_own(path: Path, folder: Path) -> None:
    """Write a GGUF file of this project as the folder of a checkpoint.

    Raises:
        ModelError: the file is damaged.
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    folder.mkdir()
    for name, text in own_files(path).items():
        write_bytes(folder / name, text.encode())
    save_file({name: value.contiguous() for name, value in own_tensors_of(path)}, folder / "model.safetensors")
