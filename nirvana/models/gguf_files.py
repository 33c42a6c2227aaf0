"""GGUF files: their header as a config, and their weights dequantised to a folder of safetensors, once."""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path
from typing import Any

from nirvana.errors import CheckpointError, ModelError, NirvanaError
from nirvana.files import cache_folder, content_hash, read_json, write_json
from nirvana.models.quiet import quiet_library
from nirvana.out_of_memory import is_out_of_memory
from nirvana.progress import ProgressCallback, report


def read_gguf_config(path: Path) -> tuple[dict[str, Any], int]:
    """The header as a config.json dictionary, and the bits per weight of its most common tensor type.

    Kept in the cache folder: a header holds the whole vocabulary, which takes seconds to parse.

    Raises:
        ModelError: it is not a GGUF file, or it lacks the description of the architecture.
    """
    known = cache_folder() / "headers" / f"{_identity(path)}.json"
    try:
        stored = read_json(known)
        return stored["config"], stored["bits"]
    except (OSError, ValueError, KeyError, TypeError):
        config, bits = _parse_header(path)
    with contextlib.suppress(NirvanaError):  # without a writable cache it is parsed again next time
        write_json(known, {"config": config, "bits": bits})
    return config, bits


def _identity(path: Path) -> str:
    stat = path.stat()
    return content_hash(str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns))[:16]


def _parse_header(path: Path) -> tuple[dict[str, Any], int]:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(path))
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ModelError(
            f"{path.name} is not a readable GGUF file: {error}.", "Download it again; it may be truncated."
        ) from error

    def value(key: str, default: Any = None) -> Any:
        field = reader.get_field(key)
        try:
            return default if field is None else field.contents()
        except UnicodeDecodeError as error:
            raise ModelError(f"{path.name} has a damaged value of {key}.", "Download it again.") from error

    architecture = value("general.architecture")
    prefix = f"{architecture}."
    heads = value(prefix + "attention.head_count")
    hidden = value(prefix + "embedding_length")
    if architecture is None or heads is None or hidden is None:
        raise ModelError(f"{path.name} does not describe a language model.", "Choose another GGUF file.")
    if str(architecture).startswith("t5"):
        raise ModelError(f"{path.name} holds a T5, which is not read from GGUF.", "Use the folder of safetensors.")
    names = {tensor.name for tensor in reader.tensors}
    if "rope_freqs.weight" in names:  # transformers ignores them, and the model would write nonsense
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
    embedding = next((tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    config = {
        "model_type": architecture,
        "num_hidden_layers": value(prefix + "block_count"),
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": value(prefix + "attention.head_count_kv", heads),
        "head_dim": value(prefix + "attention.key_length") or value(prefix + "rope.dimension_count"),
        "intermediate_size": value(prefix + "feed_forward_length"),
        "vocab_size": value(prefix + "vocab_size") or (int(embedding.shape[1]) if embedding is not None else None),
        "max_position_embeddings": value(prefix + "context_length"),
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "expert_count": value(prefix + "expert_count", 0),
        "license": value("general.license", ""),
    }
    weights: dict[Any, int] = {}
    for tensor in reader.tensors:
        weights[tensor.tensor_type] = weights.get(tensor.tensor_type, 0) + int(tensor.n_elements)
    common = max(weights, key=lambda kind: weights[kind])
    quantised = re.match(r"I?T?Q(\d)", common.name)  # Q4_1, IQ3_S ...; F32, F16 and BF16 are not quantised
    return config, int(quantised.group(1)) if quantised else 16


def converted_folder(path: Path, *, progress: ProgressCallback | None = None) -> Path:
    """A folder of float32 safetensors with the tokenizer, made from the GGUF file on first use and kept.

    Raises:
        ModelError: transformers cannot read this GGUF.
        CheckpointError: the cache folder cannot be written.
    """
    folder = cache_folder() / "models" / f"{path.stem}-{_identity(path)}"
    if (folder / "config.json").is_file():
        return folder
    report(progress, "Dequantising once (kept for next time)", 0, 0)
    from safetensors import SafetensorError
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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            staged = Path(temporary) / "model"
            with quiet_library():
                model.save_pretrained(staged)
            tokenizer.save_pretrained(staged)
            try:
                staged.replace(folder)
            except OSError:
                if not (folder / "config.json").is_file():  # another process may have finished first
                    raise
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The converted model could not be kept: {getattr(error, 'strerror', None) or error}.",
            f"Free some space in {folder.parent}, or set NIRVANA_HOME to a folder on another disk.",
        ) from error
    return folder


def _overlooked(path: Path) -> dict[str, Any]:
    """Header values that transformers does not read: Qwen3's head size, Llama's biases."""
    from transformers import CONFIG_MAPPING

    config, _ = read_gguf_config(path)
    known = CONFIG_MAPPING[config["model_type"]]()
    return {name: config[name] for name in ("head_dim", "attention_bias") if config[name] and hasattr(known, name)}
