"""Validation of a recipe before any work: values against each other, the machine and the model. Does not import
torch.
"""

from __future__ import annotations

from collections.abc import Iterable

from nirvana.allocation.allocate import reachable_sparsity
from nirvana.allocation.constraints import out_of_reach
from nirvana.allocation.edits import read_edits
from nirvana.allocation.rules import uses_gamma
from nirvana.allocation.widths import read_widths
from nirvana.costs import CostTable
from nirvana.errors import CorpusError, ModelError, RunError
from nirvana.evaluation.zero_shot.tasks import check_fit, check_name
from nirvana.layout import Layout
from nirvana.runs.recipe import STEPS, AllocationChoice, Recipe
from nirvana.runs.results import ModelCard

MOST_TRIALS = 256


def check_recipe(recipe: Recipe, steps: Iterable[str] = STEPS) -> None:
    """Validate the values of a recipe that `steps` use against each other.

    Raises:
        ModelError: the model has no name.
        CorpusError: a corpus has no name, or is named twice.
        TaskError: a zero-shot task is unknown.
        RunError: there are too many trial sets, or the evaluation reads less than one window.
    """
    calibration, evaluation = recipe.calibration, recipe.evaluation
    if not recipe.model.name.strip():
        raise ModelError("The model has no name.", "Use tiny-llama, smollm2-135m, a hub id, a folder or a .gguf file.")
    if recipe.model.weights == "lazy" and "recover" in recipe.steps and "recover" in set(steps):
        raise ModelError(
            "A model cannot be trained with its weights on disk.",
            "Use weights memory, or the recovery none.",
        )
    for text in calibration.texts:
        _check_corpus(text)
        if calibration.texts.count(text) > 1:
            raise CorpusError(f"Calibration text {text} is named twice.", "Name each text once.")
    if calibration.trials > MOST_TRIALS:
        raise RunError(
            f"{calibration.trials:,} calibration sets exceed the maximum of {MOST_TRIALS}.",
            "Lower calibration.candidates, or name fewer texts.",
        )
    if "recover" in set(steps) and recipe.recovery.method != "none":
        recipe.recovery.check()
    if "evaluate" in set(steps):
        for corpus in evaluation.corpora:
            _check_corpus(corpus)
        if evaluation.max_tokens < evaluation.window:
            raise RunError(
                f"evaluation.max_tokens ({evaluation.max_tokens:,}) is below one window ({evaluation.window:,}).",
                "Raise it, or use a shorter window.",
            )
        for task in evaluation.zero_shot:
            check_name(task)


def check_against_model(recipe: Recipe, card: ModelCard, steps: Iterable[str] = STEPS) -> None:
    """Validate a recipe against the model, before its units are scored.

    Raises:
        RunError: a window is longer than the model's positions.
        CorpusError: a task is chosen for a model without an encoder.
        TaskError: a zero-shot task does not fit this model.
        PlanError: the sparsity is out of reach, naming the reachable maximum, or a protected layer does not exist.
    """
    wanted = set(steps)
    lengths: dict[str, int] = {}
    if "calibration" in wanted:
        lengths |= {"calibration.length": recipe.calibration.length}
    if "evaluate" in wanted or ("calibration" in wanted and recipe.calibration.trials > 1):
        lengths |= {"calibration.probe_length": recipe.calibration.probe_length}
    if "evaluate" in wanted and recipe.evaluation.corpora:
        lengths |= {"evaluation.window": recipe.evaluation.window}
    if wanted & {"prune", "evaluate"} and recipe.prune.compensation != "none":
        lengths |= {"prune.length": recipe.prune.length}
    if "recover" in wanted and recipe.recovery.method != "none":
        lengths |= {"recovery.length": recipe.recovery.length}
    for name, length in lengths.items():
        positions = card.geometry.get("positions", length)
        if length > positions:
            raise RunError(f"{name} is {length:,}, and {card.name} has {positions:,} positions.", "Lower it.")
    if "evaluate" in wanted:
        check_fit(recipe.evaluation.zero_shot, card.name, encoder=len(card.layout.stacks) > 1)
    if "calibration" in wanted and recipe.calibration.task != "auto" and len(card.layout.stacks) == 1:
        raise CorpusError(f"{card.name} has no encoder, so there is no task to choose.", "Leave it at auto.")
    if "allocation" in wanted:
        check_reachable(recipe.allocation, recipe.saliency.criterion, card.layout)


def check_reachable(choice: AllocationChoice, criterion: str, layout: Layout, costs: CostTable | None = None) -> None:
    """Check that a sparsity is reachable with the scores of this criterion. A budget in time is not checked without its
    `costs`, and one of another rule than the measured allocation depends on the scores.

    Raises:
        PlanError: it is out of reach, naming the reachable maximum, the allocation does not support an option, or a
            width or edit does not fit.
    """
    choice.check_rounds()
    constraints = choice.one_round
    sparsity, _ = constraints.pop("sparsity"), constraints.pop("normalisation")  # it changes no limit
    read_widths(constraints.pop("widths"), layout)
    read_edits(constraints.pop("edits"), layout)
    if choice.budget == "latency" and (costs is None or choice.method != "measured"):
        constraints |= {"budget": "parameters"}  # which checks the other options
        sparsity = 0.0
    limit = reachable_sparsity(layout, criterion=criterion, costs=costs, **constraints)
    if sparsity > limit:
        why = f" with gamma {choice.gamma:g}" if uses_gamma(choice.method, criterion) else ""
        raise out_of_reach(sparsity, limit, why)


def _check_corpus(name: str) -> None:
    if not name.strip():
        raise CorpusError("A corpus has no name.", "Choose one, e.g. python-docs.")
