"""`nirvana run`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nirvana.checkpoints.sizes import FORMATS
from nirvana.commands.command import Command, check_folder, new_run, read_input
from nirvana.commands.console import Bar
from nirvana.commands.runs import show_run
from nirvana.errors import CheckpointError, RunError
from nirvana.files import local_path, parse_json, strict, write_json
from nirvana.jobs.foreground import execute_here
from nirvana.jobs.tasks.export import ExportRequest
from nirvana.jobs.tasks.run import RunRequest
from nirvana.options import add_fields, given
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.presets import PRESETS
from nirvana.runs.recipe import SECTIONS, ModelChoice, Recipe
from nirvana.runs.store import Store
from nirvana.runs.validation import check_recipe

if TYPE_CHECKING:
    from nirvana.models.lm import LM
    from nirvana.runs.model_cache import ModelCache
    from nirvana.runs.run import Run


class RunCommand(Command):
    """Compute every step, from the model to the report, and store the run."""

    name = "run"
    group = "pipeline"
    example = "nirvana run --model smollm2-135m --sparsity 0.2 --gamma 3.36 --output pruned"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("recipe", nargs="?", help=f"{', '.join(PRESETS)} or a recipe.json; options override it")
        add_options(parser, *SECTIONS)
        add_fields(parser, RunRequest)
        parser.add_argument(
            "--output",
            metavar="PATH",
            help="write the model here, and into its folder plan.json, report.json and recipe.json; a .gguf file for "
            "gguf",
        )
        add_fields(parser, ExportRequest)
        parser.add_argument("--name", default="", help="name of the run in the list of runs")

    def run(self, arguments: argparse.Namespace) -> None:
        recipe = apply_options(_recipe(arguments.recipe, **given(ModelChoice, arguments)), arguments)
        request = RunRequest(**given(RunRequest, arguments))
        steps = recipe.up_to(request.until)
        wanted = ExportRequest(**given(ExportRequest, arguments))
        output = local_path(arguments.output, CheckpointError) if arguments.output else None
        if output is not None:
            if "prune" not in steps:
                raise RunError(
                    f"There is no checkpoint before the step prune, and --until is {request.until}.", "Drop one."
                )
            check_output(output, wanted.format)
        check_recipe(recipe, steps)
        with Bar().shown() as bar:
            from nirvana.runs.model_cache import ModelCache

            models, store = ModelCache(), Store()
            if output is not None and wanted.format != FORMATS[0]:
                bar.step("model")
                _check_format(models.dense(recipe.model, bar.progress), wanted.format)
            with new_run(store, recipe, arguments.name) as run:
                execute_here(run, "run", request.to_json(), bar, models)
            if output is not None:
                bar.step("export")
                _write(run, models, output, wanted, bar)
        show_run(run, arguments.json, output)


def check_output(target: Path, format: str) -> None:
    """Validate the place of an export in `format`.

    Raises:
        CheckpointError: it would replace other content.
        RunError: it cannot be written.
    """
    from nirvana.checkpoints.placing import refuse_foreign, refuse_other_file

    check_folder(target)
    (refuse_other_file if format == "gguf" else refuse_foreign)(target.absolute())


def _recipe(asked: str | None, name: str = ModelChoice().name, **_: str) -> Recipe:
    """The requested recipe; presets depend on the model's name."""
    if asked is None:
        return Recipe()
    if asked in PRESETS:
        return PRESETS[asked].recipe(name)
    hint = f"Give a recipe.json, which `nirvana run --output` writes, {' or '.join(PRESETS)}, or options only."
    return Recipe.from_json(read_input(asked, parse_json, "recipe", hint))


def _check_format(lm: LM, format: str) -> None:
    """Raises: CheckpointError, where the model cannot be written in `format`."""
    from nirvana.checkpoints.exporting import refused_formats

    reason = refused_formats(lm).get(format)
    if reason is not None:
        raise CheckpointError(reason, "Choose another format with --export.")


def _write(run: Run, models: ModelCache, output: Path, wanted: ExportRequest, bar: Bar) -> None:
    """Export the final model and, into a folder, the run's plan, recipe and report."""
    from nirvana.checkpoints.exporting import export
    from nirvana.runs.workspace import Workspace

    workspace, report = Workspace.of(run, models=models, progress=bar.progress), run.report()
    plan, small = workspace.plan(), workspace.final()
    recipe = run.recipe.portable().to_json()
    formed = {"format": wanted.format, "dtype": wanted.dtype}
    folder = export(small, output, **formed, recipe=recipe, measured=report, progress=bar.progress).path
    if not folder.is_dir():
        return
    write_json(folder / "plan.json", plan.to_json())
    write_json(folder / "recipe.json", run.recipe.to_json())
    if report is not None:
        write_json(folder / "report.json", strict(report.to_json()))
