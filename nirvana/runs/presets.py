"""Recipes to start from: the paper's, and the one that measured best (`benchmarks.quality`)."""

from __future__ import annotations

from typing import NamedTuple

from nirvana.runs.recipe import Recipe


class Preset(NamedTuple):
    """`title` in menus, and what it does in a sentence."""

    title: str
    description: str
    recipe: Recipe


PRESETS = {
    "recommended": Preset(
        "Recommended",
        "This recipe measured best on SmolLM2-135M: second-order scores from more text than in the paper, gamma 4, and "
        "output projections that make up for what goes by least squares.",
        Recipe()
        .change("calibration", candidates=1, samples=48, length=256)
        .change("saliency", criterion="second-order")
        .change("allocation", gamma=4.0)
        .change("prune", compensation="least_squares"),
    ),
    "paper": Preset(
        "As in the paper",
        "This recipe is NIRVANA's: its own scores, calibration text chosen by KL, gamma 3.36, and nothing that makes "
        "up for what goes.",
        Recipe(),
    ),
}
