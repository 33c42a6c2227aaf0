"""Choices of a recipe in words, one phrase a choice, for names, headings, labels and protocols."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from nirvana.allocation.rules import uses_gamma
from nirvana.calibration.corpora.mixture import PLUS, part_names
from nirvana.recovery.options import RecoveryOptions
from nirvana.runs.recipe import AllocationChoice, Recipe, SaliencyChoice

ALLOCATIONS = {"published": "as published", "shared": "same allocation", "measured": "measured allocation"}
RECOVERIES = {"distill": "distillation", "lora": "adapters", "full": "language modelling"}
COMPENSATIONS = {"none": "no compensation", "bias": "bias", "least_squares": "least squares"}


def default_name(recipe: Recipe) -> str:
    """E.g. "smollm2-135m, 20 %, gamma 3.36", "smollm2-135m, 20 %, taylor, gamma 4, least squares"."""
    parts = [model_name(recipe), percent(recipe.allocation.sparsity)]
    usual = (recipe.saliency.criterion, recipe.allocation.method) == (SaliencyChoice().criterion, "shared")
    return ", ".join([*parts, *([] if usual else [recipe.saliency.criterion]), *setting(recipe)])


def setting(recipe: Recipe) -> list[str]:
    """Choices of allocation and compensation, without criterion and sparsity."""
    allocation, criterion = recipe.allocation, recipe.saliency.criterion
    return [
        *([ALLOCATIONS[allocation.method]] if allocation.method != "shared" else []),
        *plan_setting(criterion, allocation.method, allocation.gamma, allocation.normalisation),
        *(["equal widths"] if allocation.uniform else []),
        *budget(allocation),
        *([f"{allocation.rounds} rounds"] if allocation.rounds > 1 else []),
        *([f"widths of {len(allocation.widths)} modules"] if allocation.widths else []),
        *([f"{len(allocation.edits)} edit{'s' * (len(allocation.edits) > 1)} by hand"] if allocation.edits else []),
        *([f"{layers(allocation.protected)} protected"] if allocation.protected else []),
        *compensation(recipe.prune.compensation),
        *recovery(recipe.recovery),
    ]


def plan_setting(criterion: str, method: str, gamma: float, normalisation: float) -> list[str]:
    """E.g. ["gamma 4", "normalisation 0.5"]; no gamma where the allocation does not use it."""
    found = [f"gamma {gamma:g}"] if uses_gamma(method, criterion) else []
    return found + ([f"normalisation {normalisation:g}"] if normalisation else [])


def budget(choice: AllocationChoice) -> list[str]:
    """["of the decode time (1 x 128 tokens)"]; empty for parameters."""
    if choice.budget == "latency":
        return [f"of the {choice.budget_phase} time ({choice.budget_batch} x {choice.budget_length:,} tokens)"]
    return [] if choice.budget == "parameters" else [f"of the {choice.budget}"]


def compensation(method: str) -> list[str]:
    """["least squares"]; empty for none."""
    return [] if method == "none" else [COMPENSATIONS.get(method, method)]


def recovery(choice: RecoveryOptions) -> list[str]:
    """E.g. ["20 min of distillation"], ["2,000 tokens of adapters"]; empty for none."""
    if choice.method not in RECOVERIES:
        return []
    budgets = {"min": choice.minutes, "tokens": choice.tokens, "epochs": choice.epochs}
    unit, amount = next(((unit, amount) for unit, amount in budgets.items() if amount), ("min", 0))
    return [f"{amount:,g} {unit.removesuffix('s') if amount == 1 else unit} of {RECOVERIES[choice.method]}"]


def layers(numbers: Sequence[int]) -> str:
    """E.g. "layer 3", "layers 0, 1, 29"."""
    return f"layer{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def percent(sparsity: float) -> str:
    """E.g. "12.5 %"."""
    return f"{sparsity * 100:.3g} %"


def model_name(recipe: Recipe) -> str:
    """The model without folders or owner."""
    return PurePath(recipe.model.name).name or "model"


def short_text(name: str) -> str:
    """A corpus without folders, each part of a mixture, e.g. "novel.txt + python-docs"."""
    return PLUS.join(PurePath(part).name.removeprefix("upload:") for part in part_names(name))
