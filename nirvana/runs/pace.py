"""Pace of a model on this machine: measured seconds a token of each kind of work, to estimate durations from.

Stored in one file of the data folder, by machine and model. Results computed on another machine, such as those of the
example run, are not used.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nirvana.errors import NirvanaError
from nirvana.evaluation.zero_shot.tasks import characters
from nirvana.files import data_folder, json_hash, read_json, write_json
from nirvana.runs.recipe import ModelChoice, Recipe
from nirvana.saliency.criteria import CRITERIA

if TYPE_CHECKING:
    from nirvana.models.lm import LM

FILE = "pace.json"
LOADING, FORWARD = "loading", "forward"  # seconds in all; seconds a token
FORWARD_PASSES = {"nothing": 0.0, "activations": 1.0, "gradients": 3.3}  # that cost as much as scoring
TRAINED = 4.3  # forward passes a token of a recovery: with gradients, and the dense model's
CHARACTERS_PER_TOKEN = 4.5  # of English


def tokens_read(step: str, recipe: Recipe) -> float:
    """Tokens that the model reads in the step; tokens with a backward pass count 3.3 times."""
    choice, evaluation = recipe.calibration, recipe.evaluation
    probe = choice.probe_samples * choice.probe_length
    if step == "calibration" and choice.trials > 1:
        return probe + choice.trials * (_scored(recipe, choice.trial_criterion) + probe)
    if step == "saliency":
        return _scored(recipe, recipe.saliency.criterion)
    if step == "prune" and recipe.prune.compensation != "none":
        return recipe.prune.samples * recipe.prune.length
    if step == "recover":
        return recipe.recovery.tokens * TRAINED
    if step == "evaluate":
        asked = zero_shot_characters(recipe) or 0
        models = 3 if "recover" in recipe.steps else 2
        return models * (probe + len(evaluation.corpora) * evaluation.max_tokens + asked / CHARACTERS_PER_TOKEN)
    return 0


def _scored(recipe: Recipe, criterion: str) -> float:
    known = CRITERIA.get(criterion)
    return recipe.calibration.samples * recipe.calibration.length * (FORWARD_PASSES[known.reads] if known else 0)


def zero_shot_characters(recipe: Recipe) -> int | None:
    """Characters of the zero-shot tasks; None where they are known only after a download."""
    try:
        return characters(recipe.evaluation.zero_shot, recipe.evaluation.zero_shot_items)
    except NirvanaError:
        return None  # the panel of the tasks shows the error


def kind_of_work(step: str, recipe: Recipe) -> str:
    """The key of a step's pace, e.g. "saliency second-order": the choices that change the cost of a token."""
    choice = {
        "calibration": recipe.calibration.trial_criterion,
        "saliency": recipe.saliency.criterion,
        "prune": recipe.prune.compensation,
        "recover": recipe.recovery.method,
    }
    return f"{step} {choice[step]}" if step in choice else FORWARD


def read_pace(model: ModelChoice) -> dict[str, float]:
    """The paces of `model` on this machine by kind of work; empty before its first load on this machine."""
    kinds = _read().get(_key(model))
    return {kind: value for kind, value in kinds.items() if _is_pace(value)} if isinstance(kinds, dict) else {}


def record_pace(model: ModelChoice, paces: Mapping[str, float]) -> None:
    """Store paces, replacing earlier ones of the same kinds. A full disk is ignored."""
    known = _read()
    known[_key(model)] = read_pace(model) | dict(paces)
    with contextlib.suppress(NirvanaError):
        write_json(data_folder() / FILE, known)


def record_loading(model: ModelChoice, lm: LM, seconds: float) -> None:
    """Time one forward pass of a model that took `seconds` to load, and record both."""
    from nirvana.forward.pace import seconds_per_token

    # One pass of a few tokens reads all weights that are on disk, which says little of a pass of many.
    forward = {FORWARD: seconds_per_token(lm)} if lm.disk is None else {}
    record_pace(model, {LOADING: seconds, **forward})


def record_step(step: str, recipe: Recipe, info: Mapping[str, Any]) -> None:
    """Record the pace of a step from the record of its result, unless the result or a part of it was cached."""
    tokens = tokens_read(step, recipe)
    if tokens and step != "evaluate" and not info.get("cached") and _is_pace(info.get("seconds")):
        record_pace(recipe.model, {kind_of_work(step, recipe): info["seconds"] / tokens})


def _key(model: ModelChoice) -> str:
    """Machine, processors, threads and model."""
    threads = os.environ.get("OMP_NUM_THREADS")
    lazy = [] if model.weights == "memory" else [model.weights]
    return json_hash([platform.node(), os.cpu_count(), threads, model.name, model.device, model.dtype, *lazy])[:24]


def _read() -> dict[str, Any]:
    try:
        found = read_json(data_folder() / FILE)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_pace(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf
