"""Load a model: locate it, check its memory, then read safetensors. No code from a checkpoint is executed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from nirvana.errors import CheckpointError, ModelError
from nirvana.layout import Layout
from nirvana.models.families.base import Family
from nirvana.models.families.registry import family_of
from nirvana.models.generation_settings import read_generation_settings
from nirvana.models.gguf_files import converted_folder
from nirvana.models.gguf_own import own_files
from nirvana.models.hashing import weight_hash
from nirvana.models.lazy import put_on_disk
from nirvana.models.limits import check_fits
from nirvana.models.lm import LM, Source
from nirvana.models.pruning_record import FILE, PruningRecord, find_record
from nirvana.models.quiet import quiet_library
from nirvana.models.sizes import ModelSizes
from nirvana.models.sources import Located, locate, read_config
from nirvana.models.tensors import Checkpoint, read_tensors, stored_dtype, weight_files
from nirvana.models.weights import resize
from nirvana.out_of_memory import is_out_of_memory
from nirvana.progress import ProgressCallback, report

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Weights = Literal["memory", "lazy"]
WEIGHTS = get_args(Weights)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Keys of config.json that would make transformers run a checkpoint's code or build layers of uneven sizes itself.
NOT_FOR_TRANSFORMERS = (
    "auto_map",
    "architectures",
    "per_layer_config",
    "per_stack_config",
    "allow_global_per_layer_attribute_access",
    "output_biases",
)


def load_model(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: Weights = "memory",
    progress: ProgressCallback | None = None,
) -> LM:
    """Load a language model in eval mode, ready for every other function.

    The config is checked against the free memory before any weight is read. Only safetensors are read, never pickles,
    and no code from the checkpoint is run.

    Args:
        name: a built-in name ("smollm2-135m"), a hub id, a folder (also one from `nirvana.save`), or a .gguf file.
        device: "auto" (CUDA, then Apple silicon, then the CPU), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto", "float32", "bfloat16" or "float16". "auto" is float32 on a CPU; elsewhere that of the checkpoint.
        weights: "memory", or "lazy" to leave them on disk, for a model larger than the memory: one block at a time is
            read from the safetensors, and hidden states are kept between blocks. The files must stay as they are.
            Scores, measurements, pruning and saving work as usual; what needs all weights at once, such as training or
            a GGUF file, raises `ModelError`. Without an encoder only.
        progress: called after each tensor; may raise `Cancelled`.

    Raises:
        ModelError: the model is unknown, unsupported, too big, or holds values that are not finite.
        CheckpointError: its weights are truncated, incomplete, or do not have the shapes of its config.
    """
    from transformers import GenerationConfig

    located = locate(name)
    family = family_of(located.config)
    _refuse_quantised(located)
    if weights not in WEIGHTS:
        raise ModelError(f"Weights cannot be {weights!r}.", f"Use {' or '.join(WEIGHTS)}.")
    lazy = weights == "lazy"
    if lazy:
        _refuse_lazy(located, family)
    record = find_record(located.path, family, located.config)
    if record is not None:
        located = replace(located, config=dict(record.dense_config(family, located.config)))
        family.check(located.config)
    place = resolve_device(device)
    precision = resolve_dtype(dtype, located.config, place)
    layout = family.layout(located.config) if record is None else record.layout(family, located.config)
    for where in {"cpu", str(place)}:  # weights are read into CPU memory first
        sizes = ModelSizes(layout, family.geometry(located.config), precision.itemsize, lazy)
        check_fits(sizes.needed_at_once(where), where, located.name)
    folder = _weights_folder(located, progress)
    files = weight_files(folder)
    hash_of_files = weight_hash(files)
    config = _library_config(folder, {} if record is None else record.dense_sizes)
    makers = located.kind != "gguf" or own_files(located.path)  # settings of the library's own are none
    generation = read_generation_settings(folder) if makers else None
    disk = None
    if lazy:
        checkpoint = Checkpoint(files, precision)
        model = build_model(config, family, layout, dict(checkpoint.stand_ins), precision)
        disk = put_on_disk(model, family, checkpoint, place)
    else:
        tensors = read_tensors(files, precision, progress, family.kept_in_float32)
        model = build_model(config, family, layout, tensors, precision)
        del tensors
    # Some of the library's configs set tied embeddings regardless of the weights.
    tied = family.head(model).weight is family.embeddings(model).weight
    settings, model.config.tie_word_embeddings = {**located.config, "tie_word_embeddings": tied}, tied
    layout = family.layout(settings) if record is None else record.layout(family, settings)
    if record is not None:
        family.adapt(model, record.kept)
    if generation is not None:
        model.generation_config = GenerationConfig.from_dict(generation)
    if not lazy:
        report(progress, "Moving weights", 0, 0)
        model.requires_grad_(False)
        nn.Module.to(model, place)
    report(progress, "Reading the tokenizer", 0, 0)
    stored = str(located.config.get("dtype", "")) if located.kind == "gguf" else stored_dtype(files)
    source = Source(located.name, located.origin, located.note, path=located.path, dtype=stored)
    if record is not None:
        source = replace(source, note=record.note, base=record.base)
    return LM(
        model=model,
        tokenizer=_tokenizer(folder, len(family.embeddings(model).weight)),
        config=model.config,
        layout=layout,
        dense=layout if record is None else record.dense_layout(family, settings),
        family=family,
        source=source,
        kept=_kept(layout, record),
        device=place,
        dtype=precision,
        compute_hash=hash_of_files,
        compute_base_hash=lambda: (record.base_hash if record else "") or hash_of_files(),
        plans=() if record is None else record.plans,
        compensations=() if record is None else record.compensations,
        recoveries=() if record is None else record.recoveries,
        generation=generation,
        disk=disk,
    )


def _refuse_lazy(located: Located, family: Family) -> None:
    hint = "Load it without weights lazy."
    if located.kind == "gguf":
        raise ModelError(
            f"{located.name} is a GGUF file, which is converted as a whole.",
            f"{hint} A copy from nirvana.save can be loaded so.",
        )
    if family.encoder_decoder:
        raise ModelError(f"{located.name} has an encoder, whose output every block of the decoder reads.", hint)


def resolve_device(device: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        ModelError: the device is not available.
    """
    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ModelError(f"There is no device {device!r}.", "Use auto, cpu, cuda, cuda:0 or mps.") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(has_mps)}.get(place.type, 0)
    if not 0 <= (place.index or 0) < count:
        raise ModelError(f"The device {device!r} is not available here.", "Use auto or cpu, or check the driver.")
    return torch.device("cuda", place.index or 0) if place.type == "cuda" else torch.device(place.type)


def resolve_dtype(dtype: str, config: Mapping[str, Any], device: torch.device) -> torch.dtype:
    """The torch dtype for "auto" or a name.

    Raises:
        ModelError: the name is unknown.
    """
    if dtype == "auto":
        stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        return torch.float32 if device.type == "cpu" else DTYPES.get(stored, torch.float32)
    if dtype not in DTYPES:
        raise ModelError(f"There is no dtype {dtype!r}.", f"Use auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _refuse_quantised(located: Located) -> None:
    if located.config.get("quantization_config"):
        raise ModelError(
            f"{located.name} is quantised; gradients need plain weights.",
            "Use the model in its original precision, or a GGUF file, which is dequantised.",
        )


def _weights_folder(located: Located, progress: ProgressCallback | None) -> Path:
    if located.kind == "gguf":
        return converted_folder(located.path, progress=progress)
    if located.fetch is not None:
        report(progress, "Downloading", 0, 0)
        return located.fetch()
    return located.path


def _library_config(folder: Path, sizes: Mapping[str, int]) -> PretrainedConfig:
    """The transformers config of the folder, with `sizes`, and without keys that would run code or resize layers."""
    from transformers import CONFIG_MAPPING

    settings = {key: value for key, value in read_config(folder).items() if key not in NOT_FOR_TRANSFORMERS}
    settings |= sizes
    try:
        config: PretrainedConfig = CONFIG_MAPPING[settings["model_type"]].from_dict(settings)
    except Exception as error:  # the library's checks raise classes of their own
        raise _refused("transformers does not accept this config.json", error) from error
    return config


def build_model(
    config: PretrainedConfig, family: Family, layout: Layout, tensors: dict[str, torch.Tensor], dtype: torch.dtype
) -> PreTrainedModel:
    """The library's model with the widths of `layout`, holding `tensors` themselves, not copies.

    Raises:
        CheckpointError: names or shapes of the tensors do not match the config.
        ModelError: the config has values unknown to the library.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    mapping = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if family.encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
    library_class: Any = mapping[type(config)]

    class Resized(library_class):  # type: ignore[misc]
        """The library's class with pruned widths, set while it is built on the meta device, before weights are
        assigned.
        """

        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            resize(self, family, config.to_dict(), layout)

    try:
        with quiet_library():
            model, found = Resized.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # mismatches are reported below, by name
                output_loading_info=True,
            )
    except Exception as error:  # the library raises many kinds for odd values
        if is_out_of_memory(error):
            raise
        raise _refused("transformers cannot build this model", error) from error
    is_pruned = layout.sites != family.layout(config.to_dict()).sites
    _check_complete(found, f"config.json, {FILE}" if is_pruned else "config.json")
    model.__class__ = library_class
    model.config.architectures = [library_class.__name__]
    complete: PreTrainedModel = model
    return complete


def _refused(what: str, error: Exception) -> ModelError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ModelError(f"{what}: {' '.join(lines)[:300] or repr(error)}.", "Correct config.json, or download it again.")


def _check_complete(found: Mapping[str, Any], described_by: str) -> None:
    mismatched = sorted(
        f"{name} {tuple(stored)} instead of {tuple(built)}" for name, stored, built in found["mismatched_keys"]
    )
    missing = sorted(found["missing_keys"])
    unexpected = sorted(name for name in found["unexpected_keys"] if not name.endswith("rotary_emb.inv_freq"))
    for what, names in (("have other shapes", mismatched), ("are missing", missing), ("are not expected", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(
                f"{described_by} and the weights disagree: {', '.join(names[:3])}{more} {what}.",
                f"Use the {described_by} that was saved with these weights.",
            )
    if found["error_msgs"]:
        raise CheckpointError(f"The weights cannot be used: {found['error_msgs'][0]}.", "Download the model again.")


def _tokenizer(folder: Path, embeddings: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, all of whose ids have an embedding but for special tokens that the model does not use.

    Raises:
        ModelError: it cannot be read, or has ids beyond the embeddings.
    """
    from transformers import AutoTokenizer

    for file in folder.iterdir():  # any of which the library may open
        if file.exists() and not file.is_file() and not file.is_dir():
            raise ModelError(f"{file.name} in {folder.name} is not a regular file.", "Remove or replace it.")
    try:
        with quiet_library():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # tokenizer libraries raise many kinds, some of them bare Exception
        raise ModelError(
            f"The tokenizer of {folder.name} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}",
            "Put tokenizer.json and tokenizer_config.json beside the weights.",
        ) from error
    # The library adds special tokens that the model was not trained with, e.g. <|endoftext|> to those of GGUF files.
    needed = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special} - needed
    highest = max(set(tokenizer.get_vocab().values()) - added, default=-1)
    if highest >= embeddings:
        raise ModelError(
            f"The tokenizer of {folder.name} has ids up to {highest:,}; the model has {embeddings:,} embeddings.",
            "Use the tokenizer that the model was trained with, or resize the embeddings.",
        )
    return tokenizer


def _kept(layout: Layout, record: PruningRecord | None) -> dict[Any, np.ndarray]:
    if record is not None:
        return {site: record.kept[site] for site in layout}
    return {site: np.arange(place.units) for site, place in layout.items()}
