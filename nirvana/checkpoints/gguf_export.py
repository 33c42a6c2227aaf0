"""GGUF for llama.cpp: plain architectures where all layers have equal sizes, else ones with sizes of each layer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nirvana.checkpoints.gguf_layouts import architecture_of, layer_sizes
from nirvana.checkpoints.gguf_tokenizer import Entry, tokenizer_entries
from nirvana.checkpoints.placing import placed, refuse_other_file
from nirvana.checkpoints.provenance import base_name
from nirvana.checkpoints.saving import file_dtype, own_tensors, write_description
from nirvana.errors import CheckpointError
from nirvana.files import user_path
from nirvana.models.gguf_names import FUSED, PAIRED, gguf_name, is_rotated, rotary_pairs
from nirvana.models.gguf_own import KEY, packed
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, track

if TYPE_CHECKING:
    import numpy as np

GGML_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def export_gguf(
    lm: LM,
    path: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    tokenizer_from: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write `lm` as a GGUF file for llama.cpp; `gguf_layouts` has the families. `load_model` reads it back, with its
    pruning record, which llama.cpp ignores.

    Args:
        lm: a model with its weights in memory, pruned or not.
        path: ends in .gguf; parents are created, and an existing file is replaced.
        dtype: of the matrices, see `file_dtype`; "auto" is float16 for a quantised source. Vectors stay float32.
        tokenizer_from: a GGUF file to copy the tokenizer from; None for that of the model's source.
        progress: called after each tensor; may raise `Cancelled`, which leaves nothing behind.

    Returns:
        The file, absolute.

    Raises:
        CheckpointError: this family, setting or tokenizer was not verified with llama.cpp, a weight does not fit the
            dtype, or the disk is full or not writable.
        ModelError: the weights are not in memory, or `tokenizer_from` cannot be read.
    """
    target = user_path(path, CheckpointError).absolute()
    refuse_other_file(target)
    stored = file_dtype(lm, dtype, format="gguf")
    tokenizer = refuse_gguf(lm, tokenizer_from)
    lm.weights()
    with placed(target) as staged:
        _write(lm, staged, stored, tokenizer, progress)
    return target


def refuse_gguf(lm: LM, tokenizer_from: str | os.PathLike[str] | None = None) -> dict[str, Entry]:
    """Check that a GGUF file can be written, and return the keys of its tokenizer.

    Raises:
        CheckpointError: the family, a setting or the tokenizer was not verified, or there is no tokenizer to copy.
    """
    architecture_of(lm)
    return tokenizer_entries(lm, tokenizer_from)


def header(lm: LM, dtype: str) -> dict[str, Any]:
    """The keys that describe the architecture, without the tokenizer's. A size of all layers is one number."""
    from gguf import LlamaFileType

    geometry, sizes, architecture = lm.family.geometry(lm.settings), layer_sizes(lm.layout), architecture_of(lm)
    rope = lm.settings.get("rope_parameters") or {}
    types = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}
    per_group = geometry["heads"] // geometry["kv_heads"]
    plain = all(len(set(counts)) == 1 for counts in sizes.values())

    def of_layers(values: list[int]) -> list[int] | int:
        return values[0] if plain else values

    own = {
        "block_count": len(sizes["widths"]),
        "context_length": geometry["positions"],
        "embedding_length": geometry["hidden"],
        "vocab_size": geometry["vocabulary"],
        "feed_forward_length": of_layers(sizes["widths"]),
        "attention.head_count": of_layers([groups * per_group for groups in sizes["groups"]]),
        "attention.head_count_kv": of_layers(sizes["groups"]),
        "attention.key_length": geometry["head_dim"],
        "attention.value_length": geometry["head_dim"],
        "attention.layer_norm_rms_epsilon": float(lm.settings["rms_norm_eps"]),
        "rope.dimension_count": geometry["head_dim"],
        "rope.freq_base": float(rope.get("rope_theta", lm.settings.get("rope_theta", 10_000.0))),
    }
    name = f"{base_name(lm.source)}{', pruned' if lm.is_pruned else ''}"
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": int(LlamaFileType[types[dtype]]),
        **{f"{architecture}.{key}": value for key, value in own.items()},
    }


def tensors(lm: LM) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each tensor in llama.cpp's form; tied weights once."""
    head_dim, architecture = lm.family.geometry(lm.settings)["head_dim"], architecture_of(lm)
    inputs: list[torch.Tensor] = []
    for name, tensor in own_tensors(lm.weights()):
        target = gguf_name(name)
        if architecture == "openelm" and target.split(".")[-2] in ("attn_q", "attn_k", "attn_v"):
            inputs.append(tensor)
            if len(inputs) == 3:  # queries, keys and values, in the order of the modules
                yield f"{target.rsplit('.', 2)[0]}.{FUSED}.weight", torch.cat(inputs)
                inputs = []
            continue
        yield target, rotary_pairs(tensor, head_dim) if is_rotated(target) and architecture in PAIRED else tensor


def stored_dtype(tensor: torch.Tensor, dtype: str) -> str:
    """Storage type of a tensor: matrices as requested, vectors always in float32."""
    return dtype if tensor.dim() > 1 else "float32"


def _write(lm: LM, path: Path, dtype: str, tokenizer: Mapping[str, Entry], progress: ProgressCallback | None) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        write_description(lm, Path(temporary), dtype)
        files = packed(Path(temporary))
    writer = GGUFWriter(str(path), architecture_of(lm))
    try:
        for key, value in header(lm, dtype).items():
            writer.add_key_value(key, *_typed(value))
        for key, entry in tokenizer.items():
            writer.add_key_value(key, *entry)
        writer.add_key_value(KEY, files, GGUFValueType.STRING)
        for name, tensor in tensors(lm):
            kind = stored_dtype(tensor, dtype)
            size = tensor.numel() * getattr(torch, kind).itemsize
            raw = GGMLQuantizationType[GGML_NAMES[kind]]
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), size, raw)
        count = len(writer.tensors[0])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in track(tensors(lm), progress, "Writing the GGUF file", count):
            writer.write_tensor_data(_stored(name, tensor, stored_dtype(tensor, dtype)))
    finally:
        writer.close()


def _typed(value: Any) -> Entry:
    """A header's value with its GGUF type, and the type of its items for a list."""
    from gguf import GGUFValueType

    types = {str: GGUFValueType.STRING, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    if isinstance(value, list):
        return value, GGUFValueType.ARRAY, GGUFValueType.UINT32
    return value, types[type(value)]


def _stored(name: str, tensor: torch.Tensor, dtype: str) -> np.ndarray:
    """The values in the file's type.

    Raises:
        CheckpointError: a value is too large for the dtype.
    """
    values = tensor.detach().to("cpu", getattr(torch, dtype)).contiguous()
    if not torch.isfinite(values).all():
        raise CheckpointError(f"{name} holds values too large for {dtype}.", "Use bfloat16 or float32.")
    raw: np.ndarray = (values.view(torch.int16) if dtype == "bfloat16" else values).numpy()
    return raw
