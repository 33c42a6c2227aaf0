"""Write a model as a folder: safetensors, config, tokenizer and card; for a pruned model also its record and code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana.checkpoints.card import checkpoint_card
from nirvana.checkpoints.placing import placed, refuse_foreign
from nirvana.checkpoints.provenance import base_name
from nirvana.checkpoints.remote_code import MODULE, auto_map, class_name, remote_code
from nirvana.checkpoints.sizes import FORMATS, ITEM_BYTES, uniform_layout, written_dtype
from nirvana.errors import CheckpointError
from nirvana.evaluation.results import Report
from nirvana.files import read_json, user_path, write_bytes, write_json
from nirvana.layout import KV_GROUP, NEURON, Site
from nirvana.models.generation_settings import FILE as GENERATION
from nirvana.models.lm import LM
from nirvana.models.pruning_record import FILE, OUTPUT_BIASES, PruningRecord, layer_records
from nirvana.progress import ProgressCallback, report

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHARD_BYTES = 1 << 30
CARD = "README.md"


def save(
    lm: LM,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    recipe: Mapping[str, Any] | None = None,
    measured: Report | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Write `lm` to `folder`. `load_model(folder)` gives bit-equal logits, if no weight is rounded to `dtype`.

    transformers reads it too: `AutoModelForCausalLM.from_pretrained(folder)` (AutoModelForSeq2SeqLM for T5), with
    `trust_remote_code=True` where the layers have uneven widths. The code for that is in the folder; `load_model` never
    runs it. Layers of equal widths make a plain checkpoint of the base's architecture, without code. The folder is
    created or replaced when it is complete. Only a checkpoint is replaced, no other content.

    Args:
        lm: a model with its weights in memory, pruned or not.
        folder: created with its parents.
        dtype: of the weights in the files, see `file_dtype`. By default that of the model's own files, which rounds
            weights that were compensated or trained in a wider one; "float32" keeps them.
        recipe: the model's recipe, for the model card.
        measured: numbers for the model card.
        progress: called after each part; may raise `Cancelled`, which leaves nothing behind.

    Returns:
        The folder, absolute.

    Raises:
        CheckpointError: the folder holds other content, a weight does not fit the dtype, or the disk is full or not
            writable.
        ModelError: the weights are not in memory.
    """
    target = user_path(folder, CheckpointError).absolute()
    refuse_foreign(target)
    config, record = checkpoint_config(lm, file_dtype(lm, dtype)), record_of(lm)
    card = checkpoint_card(lm, recipe=recipe, measured=measured, remote_code="auto_map" in config)
    with placed(target) as staged:
        write_model(lm, staged, config, card, progress)
        if record is not None:
            write_json(staged / FILE, record.to_json())
        if "auto_map" in config:
            write_bytes(staged / f"{MODULE}.py", remote_code(lm.layout.architecture).encode())
        report(progress, "Writing the checkpoint", 1, 1)
    return target


def write_model(lm: LM, folder: Path, config: Mapping[str, Any], card: str, progress: ProgressCallback | None) -> None:
    """Files of every checkpoint: weights, config, tokenizer, model card, and the base's generation settings if any."""
    folder.mkdir()
    _write_weights(lm, folder, config["dtype"], progress)
    _write_settings(lm, folder, config)
    write_bytes(folder / CARD, card.encode())


def write_description(lm: LM, folder: Path, dtype: str) -> None:
    """The files of a checkpoint that are neither weights nor for people: config, tokenizer and pruning record."""
    _write_settings(lm, folder, checkpoint_config(lm, dtype))
    record = record_of(lm)
    if record is not None:
        write_json(folder / FILE, record.to_json())


def _write_settings(lm: LM, folder: Path, config: Mapping[str, Any]) -> None:
    write_json(folder / "config.json", config)
    if lm.generation is not None:
        write_json(folder / GENERATION, lm.generation)
    _write_tokenizer(lm.tokenizer, folder)


def file_dtype(lm: LM, dtype: str = "auto", *, format: str = FORMATS[0]) -> str:
    """The dtype of an export: "float32", "bfloat16" or "float16" as given; see `written_dtype` for "auto".

    Raises:
        CheckpointError: there is no such dtype.
    """
    if dtype not in ("auto", *ITEM_BYTES):
        raise CheckpointError(f"There is no dtype {dtype!r}.", f"Use auto, {', '.join(ITEM_BYTES)}.")
    return written_dtype(dtype, str(lm.dtype).removeprefix("torch."), lm.source.dtype, format=format)


def record_of(lm: LM) -> PruningRecord | None:
    """The pruning record of `lm`; None for a dense model."""
    if not lm.is_pruned:
        return None
    return PruningRecord(
        base=base_name(lm.source),
        base_hash=lm.base_hash,
        note=lm.source.note,
        base_layers={stack: len(lm.dense.layers(stack)) for stack in lm.dense.stacks},
        kept=lm.kept,
        plans=lm.plans,
        output_biases=tuple(added_biases(lm)),
        compensations=lm.compensations,
        recoveries=lm.recoveries,
        dense_sizes={name: lm.settings[name] for name in equal_sizes(lm) if lm.settings.get(name) is not None},
    )


def equal_sizes(lm: LM) -> dict[str, int]:
    """Settings for the sizes of all layers, where a plain model of this architecture can have those of `lm`, or {}."""
    layout = lm.layout
    if added_biases(lm) or uniform_layout(layout, lm.kept).sites != layout.sites:
        return {}
    groups, width = (layout[layout.pool(kind)[0]].units for kind in (KV_GROUP, NEURON))
    if any(place.units != groups for place in lm.dense.values() if place.kind == KV_GROUP) and lm.family.unit_tables:
        return {}  # a table with one column a unit is that of the dense model
    return lm.family.uniform_config(lm.settings, groups, width)


def added_biases(lm: LM) -> list[Site]:
    """The sites whose output projection gained a bias, in model order."""
    return [site for site, place in lm.layout.items() if place.output_bias and not lm.dense[site].output_bias]


def checkpoint_config(lm: LM, dtype: str) -> dict[str, Any]:
    """config.json: the sizes of all layers where they are equal; else those of the dense model, plus transformers'
    per_layer_config for the layers that differ from them.
    """
    settings = lm.config.to_diff_dict() | {"architectures": [lm.layout.architecture]}
    settings["dtype"] = dtype
    for name in ("torch_dtype", "_name_or_path", "_model_name_or_path", "name_or_path"):
        settings.pop(name, None)
    geometry = lm.family.geometry(lm.settings)
    settings |= {name: geometry[name] for name in lm.family.spelled_out}
    rope = settings.get("rope_parameters") or {}
    if "rope_theta" in rope:  # transformers 4 reads it here, and otherwise uses 10000 without a warning
        settings["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            settings["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    plain = equal_sizes(lm)
    if plain:
        return settings | plain
    biased = added_biases(lm)
    stacks = layer_records(lm.family, lm.settings, lm.kept, biased)
    if any(stacks.values()):
        if lm.family.encoder_decoder:  # transformers' own key supports one stack
            settings["per_stack_config"] = stacks
        else:
            (layers,) = stacks.values()
            settings |= {"per_layer_config": layers, "allow_global_per_layer_attribute_access": True}
            if biased:
                settings[OUTPUT_BIASES] = []  # transformers needs a value for layers without one
        # Another architecture name, so that no program takes this for a model of even widths.
        settings["architectures"] = [class_name(lm.layout.architecture)]
        settings["auto_map"] = auto_map(lm.layout.architecture)
    return settings


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The tokenizer's files, under names that transformers 4 and 5 both read."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(path, settings)


def _write_weights(lm: LM, staged: Path, dtype: str, progress: ProgressCallback | None) -> None:
    """Shards of at most 1 GiB (a larger tensor alone), tied weights once; an index where there are several."""
    from safetensors.torch import save_file

    lm.release()
    model = lm.module()
    shards = _shards(model, ITEM_BYTES[dtype])
    read = {id(value): lm.disk.source(value) for tensors in shards for value in tensors.values()} if lm.disk else {}
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    total = 0
    for done, (name, tensors) in enumerate(zip(names, shards, strict=True)):
        report(progress, "Writing the checkpoint", done, len(shards) + 1)
        stored = {
            key: in_dtype(key, read[id(value)]() if read else value.detach(), dtype, model.dtype).contiguous()
            for key, value in tensors.items()
        }
        total += sum(value.numel() * value.itemsize for value in stored.values())
        save_file(stored, staged / name, {"format": "pt"})
        del stored  # before the next shard is read
        (staged / name).chmod(staged.stat().st_mode & 0o666)  # safetensors makes it readable by the owner only
    if len(shards) > 1:
        where = {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors}
        write_json(staged / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def in_dtype(name: str, tensor: torch.Tensor, dtype: str, of_model: torch.dtype) -> torch.Tensor:
    """A weight as it is stored. Weights that the library keeps in a wider type than `of_model`'s keep theirs.

    Raises:
        CheckpointError: a value is too large for the dtype.
    """
    import torch

    kind = getattr(torch, dtype)
    if tensor.dtype == kind or (tensor.dtype != of_model and of_model == kind):
        return tensor
    values = tensor.detach().to(kind)
    if not torch.isfinite(values).all():
        raise CheckpointError(f"{name} holds values too large for {dtype}.", "Use bfloat16 or float32.")
    return values


def _shards(model: PreTrainedModel, item: int) -> list[dict[str, torch.Tensor]]:
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in own_tensors(model):
        if shards[-1] and size + tensor.numel() * item > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.numel() * item
    return shards


def own_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of each tensor, tied ones once, since the loader ties them."""
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        place = id(tensor) if tensor.is_meta else tensor.data_ptr()  # one on disk has no address
        if place not in seen:
            seen.add(place)
            yield name, tensor
