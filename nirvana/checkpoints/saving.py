"""Write a model as a folder: safetensors, config, tokenizer, and pruning.json for what was pruned. All or nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana.checkpoints.records import FILE, PruningRecord
from nirvana.errors import CheckpointError
from nirvana.files import write_json
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report
from nirvana.surgery import layer_places

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SHARD_BYTES = 1 << 30
CHECKPOINT_SUFFIXES = {".json", ".safetensors", ".jinja", ".model", ".txt", ".md", ".py"}


def save(lm: LM, folder: str | os.PathLike[str], *, progress: ProgressCallback | None = None) -> Path:
    """Write `lm` to `folder`, for `load_model(folder)`: the same logits, bit for bit, in the same dtype.

    The folder appears when it is complete. A checkpoint that is there already is replaced; any other content is not.

    Args:
        lm: a model with its weights in memory, pruned or not.
        folder: made with its parents.
        progress: called after each part; may raise `Cancelled`, which leaves nothing behind.

    Returns:
        The folder, absolute.

    Raises:
        CheckpointError: the folder holds something else, or the disk is full or not writable.
        ModelError: the weights are not in memory.
    """
    from safetensors import SafetensorError

    target = Path(folder).expanduser().absolute()
    model = lm.weights()
    refuse_foreign(target)
    record = record_of(lm)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
            staged = Path(temporary) / "new"
            staged.mkdir()
            _write_weights(model, staged, progress)
            write_json(staged / "config.json", checkpoint_config(lm))
            if model.generation_config is not None:
                model.generation_config.save_pretrained(staged)
            lm.tokenizer.save_pretrained(staged)
            if record is not None:
                write_json(staged / FILE, record.to_json())
            report(progress, "Writing the checkpoint", 1, 1)
            _swap(staged, target, Path(temporary) / "old")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{target.name} could not be written: {getattr(error, 'strerror', None) or error}.",
            f"Free some space or check the permissions of {target.parent}.",
        ) from error
    return target


def record_of(lm: LM) -> PruningRecord | None:
    """What pruning.json will say of `lm`; None for a dense model."""
    if not lm.is_pruned:
        return None
    return PruningRecord(
        base=lm.source.base or (Path(lm.source.name).name if Path(lm.source.name).exists() else lm.source.name),
        base_hash=lm.base_hash,
        note=lm.source.note,
        base_layers=len(lm.dense.layers()),
        kept=lm.kept,
    )


def checkpoint_config(lm: LM) -> dict[str, Any]:
    """config.json: the dense sizes, plus transformers' per_layer_config for the layers that differ from them."""
    settings = lm.config.to_diff_dict() | {"architectures": [lm.layout.architecture]}
    settings["dtype"] = str(lm.dtype).removeprefix("torch.")
    for name in ("torch_dtype", "_name_or_path", "_model_name_or_path", "name_or_path"):
        settings.pop(name, None)
    settings["head_dim"] = lm.family.geometry(lm.settings)["head_dim"]
    rope = settings.get("rope_parameters") or {}
    if "rope_theta" in rope:  # transformers 4 reads it here, and falls back to 10000 in silence
        settings["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            settings["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    units = {site: place.units for site, place in lm.layout.items()}
    layers = {}
    for (_, layer), place in layer_places(lm.layout).items():
        different = lm.family.layer_config(lm.settings, units, layer)
        if different:
            layers[str(place)] = different
    if layers:
        settings |= {"per_layer_config": layers, "allow_global_per_layer_attribute_access": True}
    return settings


def refuse_foreign(target: Path) -> None:
    """Saving replaces the whole folder, so nothing but a checkpoint's own files may be in it.

    Raises:
        CheckpointError: there is something else at `target`.
    """
    if not target.exists():
        return
    contents = list(target.iterdir()) if target.is_dir() else []
    own = {"config.json"} <= {item.name for item in contents} and all(
        item.is_file() and item.suffix in CHECKPOINT_SUFFIXES for item in contents
    )
    if not target.is_dir() or (contents and not own):
        raise CheckpointError(
            f"{target} exists and holds more than a checkpoint; it is left alone.", "Choose a new or an empty folder."
        )


def _swap(staged: Path, target: Path, old: Path) -> None:
    """Put `staged` in the place of `target`, or leave `target` as it was."""
    if not target.exists():
        staged.replace(target)
        return
    target.replace(old)
    try:
        staged.replace(target)
    except OSError:
        old.replace(target)
        raise


def _write_weights(model: PreTrainedModel, staged: Path, progress: ProgressCallback | None) -> None:
    """Shards of at most 1 GiB (a larger tensor alone), tied weights once; an index where there are several."""
    from safetensors.torch import save_file

    shards = _shards(model)
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for done, (name, tensors) in enumerate(zip(names, shards, strict=True)):
        report(progress, "Writing the checkpoint", done, len(shards) + 1)
        save_file({key: value.contiguous() for key, value in tensors.items()}, staged / name, {"format": "pt"})
    if len(shards) > 1:
        where = {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors}
        total = sum(value.numel() * value.itemsize for tensors in shards for value in tensors.values())
        write_json(staged / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _shards(model: PreTrainedModel) -> list[dict[str, torch.Tensor]]:
    shards: list[dict[str, torch.Tensor]] = [{}]
    size, seen = 0, set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen:  # tied: the loader ties it again
            continue
        seen.add(tensor.data_ptr())
        if shards[-1] and size + tensor.numel() * tensor.itemsize > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.detach()
        size += tensor.numel() * tensor.itemsize
    return shards
