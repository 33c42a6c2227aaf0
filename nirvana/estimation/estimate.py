"""`estimate`: memory and time of every step from a model's config alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from nirvana.errors import ModelError, RunError
from nirvana.estimation.results import MEASURED, Estimate, StepEstimate
from nirvana.estimation.steps import STEPS, UNBOUNDED, Found, Subject
from nirvana.estimation.work import Speed, timed
from nirvana.files import local_path
from nirvana.models.inspection import ModelPreview, describe_config, inspect_model
from nirvana.models.limits import SHARE
from nirvana.models.sizes import ITEM_BYTES, ModelSizes
from nirvana.models.sources import read_config
from nirvana.runs.pace import LOADING, read_pace
from nirvana.runs.recipe import Recipe


def estimate(
    source: str | os.PathLike[str] | Mapping[str, Any] | Any,
    step: str | Iterable[str] = (),
    device: str = "cpu",
    *,
    dtype: str = "auto",
    weights: str = "memory",
    recipe: Recipe | None = None,
    free: int | None = None,
    speed: Speed | None = None,
) -> Estimate:
    """Predict peak memory and time of steps. Reads the model's config, no weights, and does not import torch.

    The peak is that of a process which does nothing but this step after it loaded the model, above the interpreter
    with its libraries. Within 20 % of measured peaks on CPUs (docs/performance.md); elsewhere it is predicted only.

    Args:
        source: a built-in name, hub id, folder or .gguf file; or a config of transformers, or its dictionary.
        step: one or several of `nirvana.estimation.steps.STEPS`; by default all.
        device: "cpu", "cuda", "cuda:1" or "mps".
        dtype: of the weights. "auto" is float32 on a CPU; elsewhere that of the checkpoint.
        weights: "memory", or "lazy" to leave them on disk.
        recipe: numbers of samples and tokens, and all other settings; by default those of a new run.
        free: bytes that the device has free, on which choices by memory depend; by default as many as needed.
        speed: of the device, for seconds where no pace was measured on this machine.

    Raises:
        ModelError: the model cannot be found or is not supported, or the dtype or the weights are unknown.
        RunError: there is no such step.
    """
    chosen = recipe or Recipe()
    wanted = [step] if isinstance(step, str) else list(step)
    unknown = [name for name in wanted if name not in STEPS]
    if unknown:
        raise RunError(f"There is no step {unknown[0]!r}.", f"Steps are {', '.join(STEPS)}.")
    preview = _preview(source)
    chosen = chosen.change("model", name=preview.name, device=device, dtype=dtype, weights=weights)
    subject = subject_of(preview, chosen, device, free)
    pace = read_pace(chosen.model) if isinstance(source, str | os.PathLike) else {}
    found = [
        predicted(subject, name, each, speed=speed, pace=pace)
        for name in wanted or STEPS
        for each in STEPS[name](subject)
    ]
    kind = _dtype(preview.stored_dtype, dtype, device)
    return Estimate(preview.name, device, kind, weights, preview.layout.parameters, tuple(found))


def subject_of(preview: ModelPreview, recipe: Recipe, device: str, free: int | None = None) -> Subject:
    """A model with the settings of a recipe, on a device with `free` bytes before it is loaded; None for no limit.

    Raises:
        ModelError: the dtype is unknown, or weights cannot stay on disk.
    """
    lazy, kind = recipe.model.weights == "lazy", _dtype(preview.stored_dtype, recipe.model.dtype, device)
    sizes = ModelSizes(preview.layout, preview.geometry, ITEM_BYTES[kind], lazy)
    if lazy and sizes.encoder_decoder:
        raise ModelError(f"{preview.name} has an encoder, whose output every block of the decoder reads.", "Load it.")
    room = UNBOUNDED if free is None else max(int((free - sizes.resident(device)) * SHARE), 0)
    return Subject(sizes, device, room, recipe, stored=ITEM_BYTES.get(preview.stored_dtype, sizes.item))


def predicted(
    subject: Subject, step: str, found: Found, *, speed: Speed | None = None, pace: Mapping[str, float] | None = None
) -> StepEstimate:
    """The estimate of one variant of a step, with the seconds by the `pace` of this machine or the device's `speed`."""
    variant, memory, work, paced, settings = found
    recipe, known = subject.recipe, pace or {}
    seconds: float | None
    if "criterion" in settings:
        recipe = recipe.change("saliency", criterion=settings["criterion"])
    if "method" in settings:
        recipe = recipe.change("recovery", method=settings["method"])
    if step == "load" and LOADING in known:
        seconds, basis = known[LOADING], MEASURED
    elif step == "recover" and recipe.recovery.minutes and not recipe.recovery.tokens:
        seconds, basis = 60 * recipe.recovery.minutes, "budget"
    else:
        seconds, basis = timed(work, speed, known, paced, recipe)
    host = 0
    if subject.device != "cpu":
        host = {"load": subject.sizes.weight_bytes, "statistics": memory.statistics}.get(step, 0)
    return StepEstimate(step, variant, memory, host, work.flops, seconds, basis, settings)


def _preview(source: Any) -> ModelPreview:
    if isinstance(source, ModelPreview):
        return source
    if isinstance(source, str | os.PathLike):
        path = local_path(os.fspath(source), ModelError)
        if (path / "config.json").is_file() and not any(path.glob("*.safetensors")):
            return describe_config(read_config(path), str(source))  # of a model that is not downloaded yet
        return inspect_model(os.fspath(source))
    config = source if isinstance(source, Mapping) else source.to_dict()
    return describe_config(config, str(config.get("_name_or_path") or ""))


def _dtype(stored: str, dtype: str, device: str) -> str:
    """The dtype of the weights in memory, as `nirvana.models.loading.resolve_dtype` gives it."""
    if dtype == "auto":
        return stored if device != "cpu" and stored in ITEM_BYTES else "float32"
    if dtype not in ITEM_BYTES:
        raise ModelError(f"There is no dtype {dtype!r}.", f"Use auto, {', '.join(ITEM_BYTES)}.")
    return dtype
