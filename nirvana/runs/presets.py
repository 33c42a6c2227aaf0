"""Recipes to start from: the paper's, and those that measured best (`benchmarks.quality`, `benchmarks.recovery`)."""

from __future__ import annotations

from typing import Any, NamedTuple

from nirvana.models import tiny
from nirvana.runs.recipe import ModelChoice, Recipe

# Of tiny models, whose tokens are bytes. Twelve windows of 512 for the scores and 32 for the compensation prune
# tiny-llama as well as 48 and 96 windows of 1024: docs/results.md, "Tiny models".
TINY_WINDOWS: dict[str, dict[str, Any]] = {
    "calibration": {"samples": 12, "length": 512, "probe_samples": 32, "probe_length": 256},
    "prune": {"samples": 32, "length": 512},
    "evaluation": {"max_tokens": 8192},
}
TINY_RECOVERY: dict[str, Any] = {"minutes": 0.75, "length": 512, "learning_rate": 1e-3, "checks": 3}
ONE_SHOT = (
    Recipe()
    .change("calibration", candidates=1, samples=48, length=256)
    .change("saliency", criterion="second-order")
    .change("allocation", gamma=4.0)
    .change("prune", compensation="least_squares")
)


class Preset(NamedTuple):
    """`title` in menus, `description` in a sentence, and `tokens`: the recipe for models with a usual vocabulary."""

    title: str
    description: str
    tokens: Recipe

    def recipe(self, model: str = ModelChoice().name) -> Recipe:
        """The recipe for `model`.

        A tiny model is pruned further, to a sparsity at which something is lost, and recovers within a minute. It
        reads less text, so that the first results are there within a minute.
        """
        recipe = self.tokens.change("model", name=model)
        if model not in tiny.NAMES:
            return recipe
        for section, sizes in TINY_WINDOWS.items():
            recipe = recipe.change(section, **sizes)
        recipe = recipe.change("allocation", sparsity=tiny.SPARSITY[model])
        return recipe.change("recovery", **TINY_RECOVERY) if "recover" in recipe.steps else recipe


PRESETS = {
    "recommended": Preset(
        "Recommended",
        "This recipe measured best on SmolLM2-135M: second-order scores from more text than in the paper, gamma 4, "
        "output projections that compensate for the removed units by least squares, and then training on the dense "
        "model's predictions.",
        ONE_SHOT.change("recovery", method="distill"),
    ),
    "one-shot": Preset(
        "Without training",
        "The recommended recipe without the training: the best model in the first minutes.",
        ONE_SHOT,
    ),
    "paper": Preset(
        "As in the paper",
        "NIRVANA's recipe: its saliency, calibration text chosen by KL on its probes, gamma 3.36, and no compensation.",
        Recipe().change("calibration", probe_samples=128, probe_length=64),
    ),
}
