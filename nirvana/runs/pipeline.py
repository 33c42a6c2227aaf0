"""The steps of a run in order: model, calibration, saliency, allocation, prune, recover, evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.mixture import all_of, part_names
from nirvana.calibration.corpora.registry import SELF_GENERATED
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.calibration.tasks import task_of
from nirvana.checkpoints.exporting import refused_formats
from nirvana.errors import RunError
from nirvana.evaluation.costs import mixed_bytes
from nirvana.evaluation.perplexity import check_text
from nirvana.evaluation.results import Report
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback
from nirvana.recovery.history import RecoveryHistory
from nirvana.runs.compensation import check_statistics, compensation_record
from nirvana.runs.measurements import evaluate
from nirvana.runs.model_cache import ModelCache, placement
from nirvana.runs.pace import record_step
from nirvana.runs.recipe import STEPS
from nirvana.runs.recovery import check_recovery, has_weights, weights_file
from nirvana.runs.results import ModelCard, PruneSummary
from nirvana.runs.run import Run
from nirvana.runs.validation import check_against_model, check_recipe
from nirvana.runs.workspace import Workspace
from nirvana.saliency.scores import Saliency


class StepCallback(Protocol):
    """Receives the name of each step when it begins, its number, from 1, and the number of steps."""

    def __call__(self, step: str, number: int, steps: int) -> None: ...


def compute_steps(
    run: Run,
    *,
    until: str = STEPS[-1],
    progress: ProgressCallback | None = None,
    models: ModelCache | None = None,
    on_step: StepCallback | None = None,
    corpora: dict[str, Corpus] | None = None,
) -> None:
    """Compute every step up to `until` whose result is not current for the run's recipe.

    Each result is stored as soon as it is computed, so finished steps survive a failure or a cancellation. Results are
    also cached by the hash of their inputs: other runs with the same inputs reuse them.

    Args:
        run: gives the recipe and stores the results.
        until: the last step to compute.
        progress: called with the progress within each step; may raise `Cancelled`.
        models: keeps models in memory between calls; a new cache by default.
        on_step: called when a step begins.
        corpora: open texts by name, to which newly opened ones are added.

    Raises:
        RunError: `until` is not a step, or a value of the recipe is out of range.
        NirvanaError: a model, corpus or plan cannot be read or computed; see the engine's functions.
    """
    if until not in STEPS:
        raise RunError(f"There is no step {until!r}.", f"Steps are {', '.join(STEPS)}.")
    steps = run.recipe.up_to(until)
    check_recipe(run.recipe, steps)
    workspace = Workspace(run.recipe, models=models, corpora=corpora, run=run, progress=progress)
    todo = [step for step in steps if run.step_state(step) != "done"]
    if not todo:
        return
    announced = _announce(on_step, todo, 1)
    card = None if "model" in todo else run.model()
    if card is None or (set(todo) - {"allocation"} and card.hash != workspace.lm.hash):
        todo = list(steps)  # the model is new, or its files have changed since the results were computed
    elif "recover" in todo or ("recover" in steps and not has_weights(run)):
        todo = [step for step in steps if step in todo or step in ("recover", "evaluate")]  # of other weights
    for number, step in enumerate(todo, start=1):
        if (step, len(todo)) != announced:
            announced = _announce(on_step, todo, number)
        start = time.perf_counter()
        result, info = _STEPS[step](workspace)
        if step == "model":
            _check_ahead(workspace, result, steps)
        info.setdefault("seconds", time.perf_counter() - start)
        run.put(step, result, **info)
        record_step(step, run.recipe, info)


def _announce(on_step: StepCallback | None, todo: Sequence[str], number: int) -> tuple[str, int]:
    step, steps = todo[number - 1], len(todo)
    if on_step is not None:
        on_step(step, number, steps)
    return step, steps


def _check_ahead(workspace: Workspace, card: ModelCard, steps: tuple[str, ...]) -> None:
    """Check for foreseeable failures of later steps before the expensive ones."""
    recipe, lm = workspace.recipe, workspace.lm
    check_against_model(recipe, card, steps)
    corpora = []
    if "calibration" in steps and not any(map(_is_generated, recipe.calibration.texts)):  # the model generates it first
        corpora = workspace.texts()
        if "evaluate" in steps or recipe.calibration.trials > 1:
            workspace.draw_probe()
    if "prune" in steps:
        check_statistics(recipe, lm, corpora)
    if "recover" in steps and not _is_generated(recipe.recovery.corpus or recipe.calibration.corpus):
        check_recovery(recipe, lm, workspace.recovery_texts())
    for name in recipe.evaluation.corpora if "evaluate" in steps else ():
        if not _is_generated(name):
            check_text(lm, workspace.corpus(name), window=recipe.evaluation.window)


def _is_generated(name: str) -> bool:
    """Whether the corpus or a part of it is self-generated."""
    return SELF_GENERATED.name in part_names(name)


def _model(workspace: Workspace) -> tuple[ModelCard, dict[str, Any]]:
    start = time.perf_counter()
    lm = workspace.lm
    card = ModelCard(
        name=workspace.recipe.model.name,
        origin=lm.source.origin,
        note=lm.source.note,
        family=lm.family.name,
        layout=lm.layout,
        geometry=lm.family.geometry(lm.settings),
        hash=lm.hash,
        weight_bytes=lm.weight_bytes,
        has_chat_template=bool(getattr(lm.tokenizer, "chat_template", None)),
        seconds=time.perf_counter() - start,
        stored_dtype=lm.source.dtype,
        task=task_of(lm),
        byte_costs=mixed_bytes(lm),
        **placement(lm),
    )
    return card, {"weight_hash": lm.hash, **placement(lm)}


def _calibration(workspace: Workspace) -> tuple[CalibrationSelection | CalibrationSet, dict[str, Any]]:
    lm, chosen = workspace.lm, workspace.choose_calibration()
    info = {"weight_hash": lm.hash, "corpus_hash": all_of(workspace.texts()).hash, **placement(lm)}
    return chosen, info | workspace.origins.get("calibration", {})


def _saliency(workspace: Workspace) -> tuple[Saliency, dict[str, Any]]:
    lm, calibration, scores = workspace.lm, workspace.calibration_set(), workspace.score_units()
    info = {"weight_hash": lm.hash, "corpus_hash": calibration.source_hash, "calibration_hash": calibration.hash}
    return scores, {**info, **placement(lm), **workspace.origins["saliency"]}


def _allocation(workspace: Workspace) -> tuple[PruningPlan, dict[str, Any]]:
    info = {"saliency_hash": workspace.saliency().hash, "device": "cpu", "dtype": "float32"}
    return workspace.make_plan(), info


def _prune(workspace: Workspace) -> tuple[PruneSummary, dict[str, Any]]:
    lm, plan = workspace.lm, workspace.plan()
    start = time.perf_counter()
    small = workspace.prune_model()
    summary = PruneSummary(
        parameters={"dense": lm.layout.parameters, "pruned": small.layout.parameters},
        weight_bytes={"dense": lm.weight_bytes, "pruned": small.weight_bytes},
        seconds=time.perf_counter() - start,
        device=str(small.device),
        notes=list(plan.notes),
        refused=refused_formats(small),
        compensation=compensation_record(lm, small, workspace.origins.get("statistics", {})),
    )
    cached = workspace.origins.get("statistics", {}).get("cached", False)
    return summary, {"weight_hash": small.hash, "base_hash": lm.hash, "cached": cached, **placement(lm)}


def _recover(workspace: Workspace) -> tuple[RecoveryHistory, dict[str, Any]]:
    lm, small, healed = workspace.lm, workspace.pruned(), workspace.recover_model()
    assert healed.history is not None
    seconds = healed.history.checks[-1].seconds  # without the time between interruption and continuation
    hashes = {"weight_hash": healed.hash, "base_hash": lm.hash, "pruned_hash": small.hash}
    return healed.history, {**hashes, "weights": weights_file(healed.hash), "seconds": seconds, **placement(lm)}


def _evaluate(workspace: Workspace) -> tuple[Report, dict[str, Any]]:
    lm, report = workspace.lm, evaluate(workspace)
    hashes = {name: corpus.hash for name, corpus in workspace.evaluation_texts().items()}
    info = {"weight_hash": workspace.final().hash, "base_hash": lm.hash, "corpus_hashes": hashes}
    return report, {**info, **placement(lm)}


_STEPS: dict[str, Callable[[Workspace], tuple[Any, dict[str, Any]]]] = {
    "model": _model,
    "calibration": _calibration,
    "saliency": _saliency,
    "allocation": _allocation,
    "prune": _prune,
    "recover": _recover,
    "evaluate": _evaluate,
}
