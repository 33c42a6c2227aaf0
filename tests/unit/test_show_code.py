"""Show as code: what it prints is Python that compiles and a command line that the CLI reads back."""

from __future__ import annotations

import math
import shlex

import pytest

import nirvana as nv
from nirvana.checkpoints.sizes import FORMATS
from nirvana.cli import build_parser
from nirvana.jobs.tasks.export import ExportRequest
from nirvana.jobs.tasks.run import RunRequest
from nirvana.options import given
from nirvana.reporting.code import command_line, python_code
from nirvana.runs.options import apply_options
from nirvana.runs.recipe import (
    STEPS,
    AllocationChoice,
    CalibrationChoice,
    EvaluationChoice,
    ModelChoice,
    PruneChoice,
    Recipe,
    SaliencyChoice,
)

OTHER = Recipe(
    model=ModelChoice(name="./it's a folder", device="cpu", dtype="bfloat16"),
    calibration=CalibrationChoice(
        corpus="self-generated", candidates=1, samples=5, length=99, seed=3, task="continuation"
    ),
    saliency=SaliencyChoice(criterion="magnitude"),
    allocation=AllocationChoice(
        sparsity=0.35, gamma=math.inf, multiple_of=16, protected=(0, 3), uniform=True, method="published"
    ),
    prune=PruneChoice(compensation="bias", samples=12, length=34, seed=5),
    evaluation=EvaluationChoice(
        corpora=("stdlib-code",),
        window=128,
        max_tokens=4096,
        zero_shot=("minimal-pairs", "./my tasks"),
        zero_shot_items=25,
    ),
)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("recipe", [Recipe(), OTHER], ids=["default", "other"])
def test_command_line_gives_the_recipe_back(recipe: Recipe, step: str) -> None:
    words = shlex.split(command_line(recipe, step))
    assert words[:1] == ["nirvana"]
    parsed = build_parser().parse_args(words[1:])
    assert apply_options(Recipe(), parsed) == recipe
    assert RunRequest(**given(RunRequest, parsed)).until == step


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("recipe", [Recipe(), OTHER], ids=["default", "other"])
def test_python_compiles_and_calls_public_names(recipe: Recipe, step: str) -> None:
    source = python_code(recipe, step)
    code = compile(source, "shown", "exec")
    called = [name for name in code.co_names if f"nv.{name}" in source]
    assert called
    assert all(name in nv.__all__ for name in called)


def test_python_carries_the_choices() -> None:
    source = python_code(OTHER, "evaluate")
    for part in (
        'nv.load_model("./it\'s a folder", device="cpu", dtype="bfloat16")',
        "nv.generate_corpus(lm)",
        'samples=5, length=99, seed=3, task="continuation"',
        'criterion="magnitude"',
        'gamma=float("inf"),\n    multiple_of=16,\n    protected=(0, 3),\n    uniform=True,\n    method="published",',
        'window=128, max_tokens=4096, task="continuation"',
        "sparsity=0.35",
        'nv.zero_shot(model, ["minimal-pairs", "./my tasks"], items=25) for model in (lm, small)',
        'nv.sample_calibration(lm, text, samples=12, length=34, seed=5, task="continuation")',
        "nv.collect_statistics(lm, windows, second_moments=False)",
        'nv.prune(lm, plan, compensation="bias", statistics=statistics)',
    ):
        assert part in source


@pytest.mark.parametrize("format", FORMATS)
def test_the_prune_page_exports_in_the_format_that_was_chosen(format: str) -> None:
    source, words = python_code(Recipe(), "prune", format), shlex.split(command_line(Recipe(), "prune", format))
    compile(source, "shown", "exec")
    target = "pruned.gguf" if format == "gguf" else "pruned"
    assert f'nv.export(small, "{target}", format="{format}")' in source and "nv.save" not in source
    parsed = build_parser().parse_args(words[1:])
    assert parsed.output == target and ExportRequest(**given(ExportRequest, parsed)).format == format
    assert f'nv.export(small, "{target}", format="{format}", dtype="bfloat16")' in python_code(
        Recipe(), "prune", format, "bfloat16"
    )
    words = shlex.split(command_line(Recipe(), "prune", format, "bfloat16"))
    assert ExportRequest(**given(ExportRequest, build_parser().parse_args(words[1:]))).dtype == "bfloat16"


def test_a_choice_among_texts() -> None:
    choice = CalibrationChoice(
        corpus="python-docs",
        alternatives=("self-generated + stdlib-code", "library-docs"),
        mixtures=True,
        candidates=1,
        trial_method="published",
        trial_protected=(0,),
        trial_normalisation=0.5,
    )
    recipe = Recipe(calibration=choice, prune=PruneChoice(compensation="least_squares"))
    source = python_code(recipe, "evaluate")
    compile(source, "shown", "exec")
    mixed = 'nv.mix([nv.generate_corpus(lm), nv.load_corpus("stdlib-code")])'
    assert f'texts = [nv.load_corpus("python-docs"), {mixed}, nv.load_corpus("library-docs")]' in source
    assert "nv.sample_probe(lm, nv.mix(texts)" in source and source.count("nv.sample_probe") == 1
    allocated = ('    method="published",', "    protected=(0,),", "    normalisation=0.5,")
    for part in ("    texts,", "    mixtures=True,", *allocated):
        assert part in source
    assert source.index("text = calibration.candidates") < source.index("nv.sample_calibration(lm, text, samples=96")
    words = shlex.split(command_line(recipe, "evaluate"))
    assert apply_options(Recipe(), build_parser().parse_args(words[1:])) == recipe
