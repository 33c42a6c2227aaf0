"""What a recipe may ask for, checked before anything is loaded or queued. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable

from nirvana.allocation.allocate import reachable_sparsity
from nirvana.allocation.constraints import out_of_reach
from nirvana.allocation.rules import check_method, uses_gamma
from nirvana.calibration.tasks import TASKS
from nirvana.compensation import METHODS
from nirvana.errors import CompensationError, CorpusError, ModelError, PlanError, RunError, SaliencyError
from nirvana.evaluation.zero_shot.tasks import MAX_ITEMS, check_fit, check_name
from nirvana.layout import Layout
from nirvana.runs.recipe import STEPS, AllocationChoice, Recipe
from nirvana.runs.results import ModelCard

DTYPES = ("auto", "float32", "bfloat16", "float16")
SEEDS = 2**63
MOST_TRIALS = 256

_WHOLE_NUMBERS = {  # section, name: lowest, highest
    ("calibration", "candidates"): (1, 64),
    ("calibration", "samples"): (1, 4096),
    ("calibration", "length"): (2, 32_768),
    ("calibration", "probe_samples"): (1, 4096),
    ("calibration", "probe_length"): (2, 32_768),
    ("calibration", "seed"): (0, SEEDS - 1),
    ("calibration", "probe_seed"): (0, SEEDS - 1),
    ("allocation", "multiple_of"): (1, 65_536),
    ("prune", "samples"): (1, 65_536),
    ("prune", "length"): (2, 32_768),
    ("prune", "seed"): (0, SEEDS - 1),
    ("evaluation", "window"): (2, 131_072),
    ("evaluation", "max_tokens"): (2, 1 << 30),
    ("evaluation", "zero_shot_items"): (0, MAX_ITEMS),
}


def check_recipe(recipe: Recipe, steps: Iterable[str] = STEPS) -> None:
    """Refuse values that no step could use, of the sections that `steps` read.

    Raises:
        RunError: a count, length or seed is out of range.
        PlanError: a sparsity, gamma or protected layer is out of range, or an allocation method is unknown.
        SaliencyError: a criterion is unknown.
        CorpusError: a corpus is not named, or a task is unknown.
        CompensationError: the compensation is unknown.
        TaskError: a zero-shot task is unknown, or not there.
        ModelError: the model is not named, or the dtype is unknown.
    """
    wanted = set(steps)
    sections = {"evaluation": "evaluate" in wanted, "allocation": bool(wanted & {"allocation", "prune", "evaluate"})}
    sections["prune"] = bool(wanted & {"prune", "evaluate"})
    for (section, name), (low, high) in _WHOLE_NUMBERS.items():
        value = getattr(getattr(recipe, section), name)
        if sections.get(section, True) and not (
            isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        ):
            raise RunError(
                f"{section}.{name} must be a whole number from {low:,} to {high:,}, not {value}.", "Change it."
            )
    _check_model(recipe)
    calibration, allocation, evaluation = recipe.calibration, recipe.allocation, recipe.evaluation
    for text in calibration.texts:
        _check_corpus(text)
        if calibration.texts.count(text) > 1:
            raise CorpusError(f"{text} is to be chosen from twice.", "Name each text once.")
    if calibration.trials > MOST_TRIALS:
        raise RunError(
            f"{calibration.trials:,} calibration sets are more than the {MOST_TRIALS} that can be tried.",
            "Lower calibration.candidates, or name fewer texts.",
        )
    if calibration.task not in ("auto", *TASKS):
        raise CorpusError(f"There is no task {calibration.task!r}.", f"Use auto, {' or '.join(TASKS)}.")
    if "saliency" in wanted:
        _check_criterion(recipe.saliency.criterion)
    if calibration.trials > 1:
        _check_criterion(calibration.trial_criterion)
        check_rates(calibration.trial_sparsity, calibration.trial_gamma)
        check_method(calibration.trial_method)
        _check_layers(calibration.trial_protected)
        _check_normalisation(calibration.trial_normalisation)
    if sections["allocation"]:
        check_rates(allocation.sparsity, allocation.gamma)
        check_method(allocation.method)
        _check_normalisation(allocation.normalisation)
        _check_layers(allocation.protected)
    if sections["prune"] and recipe.prune.compensation not in METHODS:
        raise CompensationError(
            f"There is no compensation {recipe.prune.compensation!r}.", f"Use {', '.join(METHODS)}."
        )
    if sections["evaluation"]:
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
    """Refuse what this model cannot meet, before its units are scored.

    Raises:
        RunError: a window is longer than the model's positions.
        CorpusError: a task is chosen for a model without an encoder.
        TaskError: a zero-shot task is not for this model.
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


def check_reachable(choice: AllocationChoice, criterion: str, layout: Layout) -> None:
    """Refuse a sparsity that no scores of this criterion could give a plan for.

    Raises:
        PlanError: it is out of reach, naming the reachable maximum, or the allocation cannot do what is asked of it.
    """
    constraints = vars(choice).copy()
    sparsity, _ = constraints.pop("sparsity"), constraints.pop("normalisation")  # which changes no limit
    limit = reachable_sparsity(layout, criterion=criterion, **constraints)
    if sparsity > limit:
        why = f" with gamma {choice.gamma:g}" if uses_gamma(choice.method, criterion) else ""
        raise out_of_reach(sparsity, limit, why)


def _check_model(recipe: Recipe) -> None:
    if not recipe.model.name.strip():
        raise ModelError("No model is named.", "Use tiny-llama, smollm2-135m, a hub id, a folder or a .gguf file.")
    if recipe.model.dtype not in DTYPES:
        raise ModelError(f"There is no dtype {recipe.model.dtype!r}.", f"Use {', '.join(DTYPES)}.")


def _check_corpus(name: str) -> None:
    if not name.strip():
        raise CorpusError("A corpus without a name was asked for.", "Choose one, e.g. python-docs.")


def _check_layers(layers: Iterable[int]) -> None:
    if any(isinstance(layer, bool) or not isinstance(layer, int) or layer < 0 for layer in layers):
        raise PlanError(f"Protected layers are counted from 0, not {layers}.", "Correct them.")


def _check_normalisation(normalisation: float) -> None:
    if not 0 <= normalisation <= 1:
        raise PlanError(f"Normalisation lies between 0 and 1, not {normalisation}.", "Use 0 for none.")


def _check_criterion(name: str) -> None:
    from nirvana.saliency.criteria import available

    if name not in available():
        raise SaliencyError(f"There is no criterion {name!r}.", f"Use {', '.join(available())}.")


def check_rates(sparsity: float, gamma: float) -> None:
    """Raises: PlanError, where one of them is out of range."""
    if not 0 < sparsity < 1:
        raise PlanError(f"Sparsity must lie between 0 and 1, not {sparsity}.", "Use 0.2 to remove 20 %.")
    if math.isnan(gamma) or gamma < 0:
        raise PlanError(f"gamma must be 0 or more, not {gamma}.", "Use 1 for equal rates, inf for the MLP only.")
