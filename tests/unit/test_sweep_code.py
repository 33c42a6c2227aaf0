"""Sweeps as code: the command line is read back as the same sweep, and the script runs."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import pytest

from nirvana.cli import build_parser
from nirvana.options import given
from nirvana.reporting.code import sweep_code, sweep_command
from nirvana.runs.options import apply_options
from nirvana.runs.recipe import EvaluationChoice, PruneChoice, Recipe
from nirvana.runs.store import Store
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import read_rows
from tests.sweeps import grid_of

OTHER = (
    Recipe(
        prune=PruneChoice(compensation="bias", samples=12, length=34, seed=5),
        evaluation=EvaluationChoice(
            corpora=("stdlib-code",), window=128, max_tokens=4096, zero_shot=("piqa",), zero_shot_items=25
        ),
    )
    .change("model", name="./it's a folder", device="cpu")
    .change("calibration", corpus="self-generated", candidates=3, samples=5, length=99, seed=3, trial_sparsity=0.4)
    .change("saliency", criterion="magnitude")
    .change("allocation", sparsity=0.35, gamma=2.0, multiple_of=16, protected=(0, 3), method="published")
)
TRAINED = OTHER.change("recovery", method="lora", minutes=0.0, tokens=1000, rank=4)
GRID = grid_of(
    ("flap", "random"),
    ("shared",),
    (0.25,),
    (3, 4),
    ("none", "least_squares"),
    (1.5, math.inf),
    (0.0, 0.5),
    ("distill",),
    True,
)


@pytest.mark.parametrize(("recipe", "grid"), [(Recipe(), Grid()), (OTHER, Grid()), (Recipe(), GRID), (TRAINED, GRID)])
def test_the_command_line_gives_the_sweep_back(recipe: Recipe, grid: Grid) -> None:
    words = shlex.split(sweep_command(recipe, grid))
    assert words[:2] == ["nirvana", "sweep"]
    parsed = build_parser().parse_args(words[1:])
    assert Grid(**given(Grid, parsed)) == grid
    assert grid.same_rows(apply_options(Recipe(), parsed), recipe)


def test_the_script_runs(tiny_folder: Path, sample_text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = (
        Recipe()
        .change("model", name=str(tiny_folder), device="cpu")
        .change("calibration", corpus=str(sample_text), samples=4, length=24, probe_samples=4, probe_length=16)
        .change("evaluation", corpora=(str(sample_text),), window=32, max_tokens=256)
        .change("allocation", multiple_of=4)
    )
    exec(sweep_code(recipe, grid_of(("magnitude",), ("shared",), (0.3,), (0, 1), gammas=(math.inf,))), {})
    assert "magnitude, same allocation, 30 %, gamma inf, seed 1 0." in capsys.readouterr().out
    (base,) = Store().runs()
    assert len(read_rows(base)) == 2 and Grid().same_rows(base.recipe, recipe)
