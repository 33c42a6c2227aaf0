"""The steps of a run in order: model, calibration, saliency, allocation, prune, evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nirvana.allocation.allocate import allocate
from nirvana.calibration.corpora.corpus import Corpus
from nirvana.calibration.corpora.mixture import all_of, part_names
from nirvana.calibration.corpora.registry import SELF_GENERATED
from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.calibration.tasks import task_of
from nirvana.checkpoints.exporting import refused_formats
from nirvana.errors import RunError
from nirvana.evaluation.perplexity import check_text
from nirvana.evaluation.results import Report
from nirvana.models.lm import LM
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback
from nirvana.runs.cached import (
    Origin,
    calibration_text,
    choose_calibration,
    draw_probe,
    open_corpus,
    score_units,
)
from nirvana.runs.compensated import check_same_compensation, check_statistics_fit, compensation_summary, pruned_model
from nirvana.runs.measurements import evaluate
from nirvana.runs.models import Models, placement
from nirvana.runs.recipe import STEPS, Recipe
from nirvana.runs.results import ModelCard, PruneSummary
from nirvana.runs.run import Run
from nirvana.runs.validation import check_against_model, check_recipe
from nirvana.saliency.scores import Saliency


class StepCallback(Protocol):
    """Told when a step begins: its name, and which of how many it is, from 1."""

    def __call__(self, step: str, number: int, steps: int) -> None: ...


@dataclass
class Work:
    """What the steps of one execution share."""

    run: Run
    recipe: Recipe
    models: Models
    progress: ProgressCallback | None
    corpora: dict[str, Corpus] = field(default_factory=dict)
    statistics: Origin = field(default_factory=dict)  # how those of the compensation came about

    def lm(self) -> LM:
        return self.models.dense(self.recipe.model, self.progress)

    def corpus(self, name: str) -> Corpus:
        if name not in self.corpora:
            self.corpora[name] = open_corpus(name, self.lm(), self.progress)
        return self.corpora[name]

    def texts(self) -> list[Corpus]:
        """Those that the calibration set is chosen from."""
        return [self.corpus(name) for name in self.recipe.calibration.texts]

    def pruned(self) -> LM:
        """The pruned model, made where it is not in memory."""
        lm, plan, needs_text = self.lm(), self.need("allocation"), self.recipe.prune.compensation != "none"
        corpus = None
        if needs_text:
            corpus = calibration_text(self.recipe.calibration, self.need("calibration"), self.corpus)
        small, origin = pruned_model(self.recipe, self.models, lm, plan, corpus=corpus, progress=self.progress)
        self.statistics = self.statistics or origin
        return small

    def need(self, step: str) -> Any:
        """The result of an earlier step.

        Raises:
            RunError: it went missing since.
        """
        result = self.run.steps.read(step)
        if result is None:
            raise RunError(f"The {step} result of this run is damaged.", "Run it again: that step is made anew.")
        return result


def execute(
    run: Run,
    *,
    until: str = STEPS[-1],
    progress: ProgressCallback | None = None,
    models: Models | None = None,
    on_step: StepCallback | None = None,
    corpora: dict[str, Corpus] | None = None,
) -> None:
    """Compute every step up to `until` whose result is not what the run's recipe asks for.

    Each result is stored as soon as it is there, so what was finished survives a failure or a cancellation. Results
    are also kept by the hash of their inputs: another run with the same inputs computes nothing again.

    Args:
        run: where the recipe comes from and results go.
        until: the last step to compute.
        progress: called with the progress within each step; may raise `Cancelled`.
        models: holds models between calls; a new holder by default.
        on_step: called when a step begins.
        corpora: texts by name that are open already; those that are opened here are added.

    Raises:
        RunError: `until` is no step, or a value of the recipe is out of range.
        NirvanaError: a model, corpus or plan is not to be had; see the engine's functions.
    """
    if until not in STEPS:
        raise RunError(f"There is no step {until!r}.", f"Steps are {', '.join(STEPS)}.")
    steps = STEPS[: STEPS.index(until) + 1]
    check_recipe(run.recipe, steps)
    work = Work(run, run.recipe, models or Models(), progress, {} if corpora is None else corpora)
    todo = [step for step in steps if run.step_state(step, run.recipe) != "done"]
    if not todo:
        return
    announced = _announce(on_step, todo, 1)
    card = None if "model" in todo else run.model()
    if card is None or (set(todo) - {"allocation"} and card.hash != work.lm().hash):
        todo = list(steps)  # the model is new, or its files are not those that the results were made from
    for number, step in enumerate(todo, start=1):
        if (step, len(todo)) != announced:
            announced = _announce(on_step, todo, number)
        start = time.perf_counter()
        result, info = _STEPS[step](work)
        if step == "model":
            _check_ahead(work, result, steps)
        info.setdefault("seconds", time.perf_counter() - start)
        run.put(step, result, fingerprint=work.recipe.fingerprint(step), **info)


def _announce(on_step: StepCallback | None, todo: Sequence[str], number: int) -> tuple[str, int]:
    step, steps = todo[number - 1], len(todo)
    if on_step is not None:
        on_step(step, number, steps)
    return step, steps


def _check_ahead(work: Work, card: ModelCard, steps: tuple[str, ...]) -> None:
    """Find out before the expensive steps what would make a later one fail."""
    check_against_model(work.recipe, card, steps)
    calibration, evaluation = work.recipe.calibration, work.recipe.evaluation
    corpora = []
    if "calibration" in steps and not any(map(_is_generated, calibration.texts)):  # which the model has to write first
        corpora = work.texts()
        if "evaluate" in steps or calibration.trials > 1:
            draw_probe(calibration, work.lm(), corpora)
    if "prune" in steps:
        check_statistics_fit(work.recipe, work.lm(), corpora)
    for name in evaluation.corpora if "evaluate" in steps else ():
        if not _is_generated(name):
            check_text(work.lm(), work.corpus(name), window=evaluation.window)


def _is_generated(name: str) -> bool:
    """Whether the model writes a corpus, or a part of it."""
    return SELF_GENERATED.name in part_names(name)


def _model(work: Work) -> tuple[ModelCard, dict[str, Any]]:
    start = time.perf_counter()
    lm = work.lm()
    card = ModelCard(
        name=work.recipe.model.name,
        origin=lm.source.origin,
        note=lm.source.note,
        family=lm.family.name,
        layout=lm.layout,
        geometry=lm.family.geometry(lm.settings),
        hash=lm.hash,
        weight_bytes=lm.weight_bytes,
        has_chat_template=bool(getattr(lm.tokenizer, "chat_template", None)),
        seconds=time.perf_counter() - start,
        task=task_of(lm),
        **placement(lm),
    )
    return card, {"weight_hash": lm.hash, **placement(lm)}


def _calibration(work: Work) -> tuple[CalibrationSelection | CalibrationSet, dict[str, Any]]:
    lm, corpora = work.lm(), work.texts()
    chosen, origin = choose_calibration(work.recipe.calibration, lm, corpora, work.progress)
    return chosen, {"weight_hash": lm.hash, "corpus_hash": all_of(corpora).hash, **placement(lm), **origin}


def _saliency(work: Work) -> tuple[Saliency, dict[str, Any]]:
    lm, chosen = work.lm(), work.need("calibration")
    calibration = chosen.calibration if isinstance(chosen, CalibrationSelection) else chosen
    saliency, origin = score_units(work.recipe.saliency.criterion, lm, calibration, work.progress)
    info = {"weight_hash": lm.hash, "corpus_hash": calibration.source_hash, "calibration_hash": calibration.hash}
    return saliency, {**info, **placement(lm), **origin}


def _allocation(work: Work) -> tuple[PruningPlan, dict[str, Any]]:
    saliency: Saliency = work.need("saliency")
    plan = allocate(saliency, **vars(work.recipe.allocation))
    return plan, {"saliency_hash": saliency.hash, "device": "cpu", "dtype": "float32"}


def _prune(work: Work) -> tuple[PruneSummary, dict[str, Any]]:
    lm = work.lm()
    plan: PruningPlan = work.need("allocation")
    start = time.perf_counter()
    small = work.pruned()
    summary = PruneSummary(
        parameters={"dense": lm.layout.parameters, "pruned": small.layout.parameters},
        weight_bytes={"dense": lm.weight_bytes, "pruned": small.weight_bytes},
        seconds=time.perf_counter() - start,
        device=str(small.device),
        notes=list(plan.notes),
        refused=refused_formats(small),
        compensation=compensation_summary(lm, small, work.statistics),
    )
    return summary, {"weight_hash": small.hash, "base_hash": lm.hash, **placement(lm)}


def _evaluate(work: Work) -> tuple[Report, dict[str, Any]]:
    lm, chosen = work.lm(), work.need("calibration")
    small = work.pruned()
    check_same_compensation(work.run.pruned(), lm, small)
    corpora = {name: work.corpus(name) for name in work.recipe.evaluation.corpora}
    if isinstance(chosen, CalibrationSelection):
        probe = chosen.probe
    else:
        probe = draw_probe(work.recipe.calibration, lm, work.texts())
    report = evaluate(work.run, {"dense": lm, "pruned": small}, corpora, probe, work.progress)
    hashes = {name: corpus.hash for name, corpus in corpora.items()}
    return report, {"weight_hash": small.hash, "base_hash": lm.hash, "corpus_hashes": hashes, **placement(lm)}


_STEPS: dict[str, Callable[[Work], tuple[Any, dict[str, Any]]]] = {
    "model": _model,
    "calibration": _calibration,
    "saliency": _saliency,
    "allocation": _allocation,
    "prune": _prune,
    "evaluate": _evaluate,
}
