"""GGUF files: their header as a config, and their weights dequantised to a folder of safetensors, once."""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nirvana.errors import CheckpointError, ModelError
from nirvana.files import cache_folder, content_hash, existing_folder, parse_json, well_formed
from nirvana.models.gguf_header import GGUFTensor, read_header
from nirvana.models.gguf_own import CONFIG, KEY, own_files, unpacked, write_own
from nirvana.models.quiet import quiet_library
from nirvana.out_of_memory import is_out_of_memory
from nirvana.progress import ProgressCallback, report

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_gguf_config(path: Path) -> tuple[dict[str, Any], int]:
    """The header as a config.json dictionary, and the bits per weight of its most common tensor type.

    Raises:
        ModelError: it is not a GGUF file, or it lacks the description of the architecture.
    """
    try:
        header = read_header(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path.name} is not a readable GGUF file: {error}.", "Download it again; it may be truncated."
        ) from error
    value, tensors = header.values.get, header.tensors
    architecture = value("general.architecture")
    if KEY in header.values and tensors:
        with well_formed(f"{KEY} in {path.name} cannot be read", ModelError, "Write the GGUF file again."):
            config = dict(parse_json(unpacked(header.values[KEY], path.name)[CONFIG]))
        config["license"] = value("general.license", "")
        return _with_dtype(config, tensors)
    prefix = f"{architecture}."
    heads = value(prefix + "attention.head_count")
    hidden = value(prefix + "embedding_length")
    embedding = tensors.get("token_embd.weight")
    if not isinstance(architecture, str) or heads is None or hidden is None or embedding is None:
        raise ModelError(f"{path.name} does not describe a language model.", "Choose another GGUF file.")
    if architecture.startswith("t5"):
        raise ModelError(f"{path.name} holds a T5, which is not read from GGUF.", "Use the folder of safetensors.")
    if "rope_freqs.weight" in tensors:  # transformers ignores them, and the model would write nonsense
        raise ModelError(
            f"{path.name} scales its rotary positions by stored factors, which cannot be converted.",
            "Use the model's folder of safetensors.",
        )
    scaling = value(prefix + "rope.scaling.type") or ("linear" if value(prefix + "rope.scale_linear") else "none")
    if scaling != "none":  # transformers ignores these too
        raise ModelError(
            f"{path.name} scales its rotary positions ({scaling}), which cannot be converted.",
            "Use the model's folder of safetensors.",
        )
    config = {
        "model_type": architecture,
        "num_hidden_layers": value(prefix + "block_count"),
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": value(prefix + "attention.head_count_kv", heads),
        "head_dim": value(prefix + "attention.key_length") or value(prefix + "rope.dimension_count"),
        "intermediate_size": value(prefix + "feed_forward_length"),
        "vocab_size": value(prefix + "vocab_size") or math.prod(embedding.shape[1:]),
        "max_position_embeddings": value(prefix + "context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "expert_count": value(prefix + "expert_count", 0),
        "license": value("general.license", ""),
    }
    return _with_dtype(config, tensors)


def _with_dtype(config: dict[str, Any], tensors: Mapping[str, GGUFTensor]) -> tuple[dict[str, Any], int]:
    """`config` with the dtype of the tensors, unless they are quantised, and the bits per weight of most."""
    weights: Counter[str] = Counter()
    for tensor in tensors.values():
        weights[tensor.kind] += math.prod(tensor.shape)
    kind = max(weights, key=weights.__getitem__)
    config.pop("dtype", None)
    if kind in DTYPES:
        config["dtype"] = DTYPES[kind]
    quantised = re.match(r"I?T?Q(\d)", kind)  # Q4_1, IQ3_S ...; not F32, F16, BF16
    return config, int(quantised.group(1)) if quantised else 16


def converted_folder(path: Path, *, progress: ProgressCallback | None = None) -> Path:
    """A folder of safetensors with the tokenizer, made from the GGUF file on first use and kept: float32, but for a
    file of this project, which keeps its dtypes, its config and its pruning record.

    Raises:
        ModelError: transformers cannot read this GGUF.
        CheckpointError: the cache folder cannot be written.
    """
    folder = cache_folder() / "models" / f"{path.stem}-{_identity(path)}"
    if (folder / "config.json").is_file():
        return folder
    report(progress, "Dequantising once (kept for next time)", 0, 0)
    from safetensors import SafetensorError

    write = write_own if own_files(path) else _write_converted
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            staged = Path(temporary) / "model"
            write(path, staged)
            try:
                staged.replace(folder)
            except OSError:
                if not (folder / "config.json").is_file():  # another process may have finished first
                    raise
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The converted model could not be kept: {getattr(error, 'strerror', None) or error}.",
            f"Free some space in {existing_folder(folder)}, or set NIRVANA_HOME to a folder on another disk.",
        ) from error
    return folder


def _write_converted(path: Path, folder: Path) -> None:
    """Write the model and the tokenizer that transformers reads from a GGUF file.

    Raises:
        ModelError: transformers cannot read this GGUF.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_library():
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype="float32", **_overlooked(path)
            )
    except Exception as error:  # tokenizer libraries raise many kinds, some of them bare Exception
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{path.name} cannot be converted: {error}", "Use another GGUF file or a folder.") from error
    # The weights are plain now; transformers refuses to save a model marked as quantised.
    for holder, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(holder, name):
            delattr(holder, name)
    model.config.name_or_path = ""
    with quiet_library():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _identity(path: Path) -> str:
    stat = path.stat()
    return content_hash(str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns))[:16]


def _overlooked(path: Path) -> dict[str, Any]:
    """Header values that transformers does not read: Qwen3's head size, Llama's biases."""
    from transformers import CONFIG_MAPPING

    config, _ = read_gguf_config(path)
    known = CONFIG_MAPPING[config["model_type"]]()
    return {name: config[name] for name in ("head_dim", "attention_bias") if config[name] and hasattr(known, name)}
