"""GGUF for llama.cpp, with the architecture `deci`, which allows other heads and widths in each layer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nirvana.checkpoints.gguf_names import gguf_name, is_rotated, rotary_pairs
from nirvana.checkpoints.placing import placed, refuse_other_file
from nirvana.checkpoints.provenance import base_gguf, base_name
from nirvana.checkpoints.saving import file_dtype
from nirvana.errors import CheckpointError, ModelError
from nirvana.files import user_path
from nirvana.layout import KV_GROUP, NEURON, Layout
from nirvana.models.families.base import Family
from nirvana.models.gguf_header import read_header
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, track

if TYPE_CHECKING:
    import numpy as np

ARCHITECTURE = "deci"
GGML_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
FAMILY = "Llama"
VERIFIED_TOKENIZER = "gpt2"  # llama.cpp's name for byte-level byte-pair encoding
COPIED = ("tokenizer.", "general.languages", "general.license")


def export_gguf(
    lm: LM,
    path: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    tokenizer_from: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write `lm` as a GGUF file for llama.cpp, with the widths of each layer.

    Args:
        lm: a model of the Llama family with its weights in memory, pruned or not.
        path: ends in .gguf; parents are created, and an existing file is replaced.
        dtype: of the matrices, see `file_dtype`; "auto" is float16 for a quantised source. Vectors stay float32.
        tokenizer_from: the GGUF file to copy the tokenizer from; None for the model's own.
        progress: called after each tensor; may raise `Cancelled`, which leaves nothing behind.

    Returns:
        The file, absolute.

    Raises:
        CheckpointError: this family, positional scaling or tokenizer was not verified with llama.cpp, a weight does not
            fit the dtype, or the disk is full or not writable.
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


def refuse_gguf(lm: LM, tokenizer_from: str | os.PathLike[str] | None = None) -> Any:
    """Check that a GGUF file can be written, and return a reader of the file with its tokenizer.

    Raises:
        CheckpointError: the family, a setting or the tokenizer was not verified, or there is no tokenizer to copy.
    """
    refuse_unverified(lm.family, lm.settings)
    return tokenizer_source(lm, tokenizer_from)


def refuse_unverified(family: Family, config: Mapping[str, Any]) -> None:
    """Check that logits of this kind of model were compared with llama.cpp's.

    Raises:
        CheckpointError: naming the family or the setting.
    """
    if family.name != FAMILY:
        raise CheckpointError(
            f"{family.name} models cannot be written as GGUF: llama.cpp's layers of uneven widths "
            f"({ARCHITECTURE}) use Llama's rotary positions, and no other family was verified with them.",
            "Use the checkpoint or the uniform format.",
        )
    rope = config.get("rope_parameters") or {}
    kind = rope.get("rope_type", "default")
    if kind != "default":
        raise CheckpointError(
            f"Rotary positions scaled by {kind!r} cannot be written as GGUF: llama.cpp needs stored factors, "
            "which were not verified.",
            "Use the checkpoint or the uniform format.",
        )
    if config.get("hidden_act", "silu") != "silu":
        raise CheckpointError(
            f"The activation {config['hidden_act']!r} cannot be written as GGUF: {ARCHITECTURE} supports only silu.",
            "Use the checkpoint or the uniform format.",
        )


def tokenizer_source(lm: LM, given: str | os.PathLike[str] | None = None) -> Any:
    """A reader of the GGUF file whose tokenizer is that of `lm`.

    Raises:
        CheckpointError: there is none, or it has another vocabulary.
    """
    if given is None:
        base = base_gguf(lm.source)
        if base is None:
            raise CheckpointError(
                f"{base_name(lm.source)} did not come from a GGUF file, and its tokenizer cannot be converted "
                "to llama.cpp's form.",
                "Use the checkpoint or the uniform format; or, in Python, copy that of a GGUF file of the same "
                "base model: nv.export_gguf(..., tokenizer_from=path).",
            )
        path = base
    else:
        path = user_path(given, ModelError)
    reader = open_gguf(path)
    kind, tokens = value_of(reader, "tokenizer.ggml.model"), value_of(reader, "tokenizer.ggml.tokens") or []
    if kind != VERIFIED_TOKENIZER:
        raise CheckpointError(
            f"The tokenizer of {path.name} is of llama.cpp's kind {kind!r}, which was not verified; "
            f"{VERIFIED_TOKENIZER!r} (byte-level byte-pair encoding) was.",
            "Use the checkpoint or the uniform format.",
        )
    size = lm.family.geometry(lm.settings)["vocabulary"]
    # The library may add tokens without embeddings.
    vocabulary = {token: index for token, index in lm.tokenizer.get_vocab().items() if index < size}
    shared = {token: index for index, token in enumerate(tokens) if token in vocabulary}
    if vocabulary != shared or len(tokens) != size:
        raise CheckpointError(
            f"{path.name} has another vocabulary ({len(tokens):,} tokens) than {base_name(lm.source)} ({size:,}).",
            "Use a GGUF file of the same base model.",
        )
    return reader


def open_gguf(path: Path) -> Any:
    """A reader of a GGUF file.

    Raises:
        CheckpointError: it is missing, truncated or not GGUF.
    """
    from gguf import GGUFReader

    try:
        read_header(path)  # the library's reader follows counts beyond the end of the file
        return GGUFReader(str(path))
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable GGUF file: {error}.", "Write or download it again."
        ) from error


def value_of(reader: Any, key: str) -> Any:
    """The value of a header's key, or None."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def layer_sizes(layout: Layout) -> dict[str, list[int]]:
    """Sizes that differ between layers: "groups" (KV groups) and "widths" (of the MLP), in model order."""
    return {
        "groups": [layout[site].units for site in layout.pool(KV_GROUP)],
        "widths": [layout[site].units for site in layout.pool(NEURON)],
    }


def header(lm: LM, dtype: str) -> dict[str, Any]:
    """The keys that describe the architecture, without the tokenizer's."""
    from gguf import LlamaFileType

    geometry, sizes = lm.family.geometry(lm.settings), layer_sizes(lm.layout)
    rope = lm.settings.get("rope_parameters") or {}
    types = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}
    per_group = geometry["heads"] // geometry["kv_heads"]
    own = {
        "block_count": len(sizes["widths"]),
        "context_length": geometry["positions"],
        "embedding_length": geometry["hidden"],
        "vocab_size": geometry["vocabulary"],
        "feed_forward_length": sizes["widths"],
        "attention.head_count": [groups * per_group for groups in sizes["groups"]],
        "attention.head_count_kv": sizes["groups"],
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
        **{f"{ARCHITECTURE}.{key}": value for key, value in own.items()},
    }


def tensors(lm: LM) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each tensor in llama.cpp's form; tied weights once."""
    head_dim, tied = lm.family.geometry(lm.settings)["head_dim"], lm.settings.get("tie_word_embeddings")
    for name, tensor in lm.weights().state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        target = gguf_name(name)
        yield target, rotary_pairs(tensor, head_dim) if is_rotated(target) else tensor


def stored_dtype(tensor: torch.Tensor, dtype: str) -> str:
    """Storage type of a tensor: matrices as requested, vectors always in float32."""
    return dtype if tensor.dim() > 1 else "float32"


def _write(lm: LM, path: Path, dtype: str, tokenizer: Any, progress: ProgressCallback | None) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(str(path), ARCHITECTURE)
    try:
        for key, value in header(lm, dtype).items():
            writer.add_key_value(key, *_typed(value))
        _copy_keys(writer, tokenizer)
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


def _typed(value: Any) -> tuple[Any, Any] | tuple[Any, Any, Any]:
    """A header's value with its GGUF type, and the type of its items for a list."""
    from gguf import GGUFValueType

    types = {str: GGUFValueType.STRING, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    if isinstance(value, list):
        return value, GGUFValueType.ARRAY, GGUFValueType.UINT32
    return value, types[type(value)]


def _copy_keys(writer: Any, source: Any) -> None:
    """Copy tokenizer, chat template, languages and licence from the source."""
    for key, field in source.fields.items():
        if key.startswith(COPIED):
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)


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
