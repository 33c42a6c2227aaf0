"""How much text a step reads, and how long that may take, by what it took before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from nirvana.errors import NirvanaError
from nirvana.evaluation.zero_shot.tasks import characters
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.saliency.criteria import CRITERIA
from nirvana.studies.sweep_grid import Point
from nirvana.studies.sweep_rows import Row

FORWARD_PASSES = {"nothing": 0.0, "activations": 1.0, "gradients": 3.3}  # that cost as much as scoring
CHARACTERS_PER_TOKEN = 4.5  # of English


def tokens_read(step: str, recipe: Recipe) -> float:
    """Tokens that go through a model in the step; those that gradients are taken of count 3.3 times."""
    choice, evaluation = recipe.calibration, recipe.evaluation
    probe = choice.probe_samples * choice.probe_length
    if step == "evaluate":
        asked = zero_shot_characters(recipe) or 0
        return 2 * (probe + len(evaluation.corpora) * evaluation.max_tokens + asked / CHARACTERS_PER_TOKEN)
    if step == "saliency":
        return _scored(recipe, recipe.saliency.criterion)
    if step == "prune":
        return 0 if recipe.prune.compensation == "none" else recipe.prune.samples * recipe.prune.length
    if choice.trials == 1:
        return 0
    return probe + choice.trials * (_scored(recipe, choice.trial_criterion) + probe)


def _scored(recipe: Recipe, criterion: str) -> float:
    known = CRITERIA.get(criterion)
    return recipe.calibration.samples * recipe.calibration.length * (FORWARD_PASSES[known.reads] if known else 0)


def zero_shot_characters(recipe: Recipe) -> int | None:
    """Characters that a model reads of the zero-shot tasks; None where that is known only after a download."""
    try:
        return characters(recipe.evaluation.zero_shot, recipe.evaluation.zero_shot_items)
    except NirvanaError:
        return None  # said where the tasks are chosen


def expected_seconds(step: str, recipe: Recipe, run: Run, others: Iterable[Run] = ()) -> float | None:
    """Scaled by tokens and parameters from `run` or the first of `others` that computed `step` on the same device.

    None where there is nothing to go by.
    """
    card = run.model()
    for basis in (run, *others):
        info, model = basis.info(step), basis.model()
        if info is None or model is None or basis.step_state(step) != "done" or not info.get("seconds"):
            continue
        before = tokens_read(step, basis.recipe) * model.layout.parameters
        if before and (card is None or card.device == info.get("device")):
            now = tokens_read(step, recipe) * (card or model).layout.parameters
            return float(info["seconds"]) * now / before
    return None


def sweep_seconds(todo: Sequence[Point], rows: Sequence[Row], run: Run, others: Iterable[Run] = ()) -> float | None:
    """Seconds for the points of a sweep around `run`, estimated from `rows`, or else from the run's steps.

    Each criterion scores once a seed, and the dense model is measured once; None where there is nothing to go by.
    """
    spent = [row.seconds for row in rows if row.seconds]
    if len(spent) > 1:
        return median(spent) * len(todo)
    basis = list(others)
    total, scored = 0.0, set()
    for number, point in enumerate(todo):
        recipe = point.recipe(run.recipe)
        measured = expected_seconds("evaluate", recipe, run, basis)
        if measured is None:
            return None
        total += measured / 2 * (1 if number else 2)
        total += expected_seconds("prune", recipe, run, basis) or 0.0
        if (point.seed, point.criterion) not in scored:
            scored.add((point.seed, point.criterion))
            total += expected_seconds("saliency", recipe, run, basis) or 0.0
    return total
