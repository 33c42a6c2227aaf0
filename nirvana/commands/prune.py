"""`nirvana prune`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command, load, read_input
from nirvana.commands.console import Bar, print_json
from nirvana.commands.run import check_output
from nirvana.errors import CheckpointError
from nirvana.files import local_path, parse_json
from nirvana.jobs.tasks.export import ExportRequest
from nirvana.options import add_fields, given
from nirvana.plan import PruningPlan
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import Recipe
from nirvana.runs.validation import check_recipe


class PruneCommand(Command):
    """A pruned checkpoint, from a plan."""

    name = "prune"
    help = "Cut the units out and write the pruned checkpoint."
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model", "prune")
        add_options(parser, "calibration", only=("--corpus", "--task"))
        parser.add_argument("--plan", metavar="FILE", default="plan.json", help="from `nirvana allocate`")
        parser.add_argument("--output", metavar="PATH", default="pruned", help="a folder, or a .gguf file for gguf")
        add_fields(parser, ExportRequest)

    def run(self, arguments: argparse.Namespace) -> None:
        recipe = apply_options(Recipe(), arguments)
        check_recipe(recipe, ("model", "prune"))
        format = ExportRequest(**given(ExportRequest, arguments)).format
        hint = "`nirvana allocate` writes one."
        plan = PruningPlan.from_json(read_input(arguments.plan, parse_json, "plan", hint))
        output = local_path(arguments.output, CheckpointError)
        check_output(output, format)
        with Bar().shown() as bar:
            lm = load(recipe.model, bar)
            from nirvana.checkpoints.exporting import export
            from nirvana.runs.workspace import Workspace

            bar.step("prune")
            small = Workspace(recipe, lm=lm, plan=plan, progress=bar.progress).pruned()
            written = export(small, output, format=format, progress=bar.progress)
        sizes = {"dense": lm.layout.parameters, "pruned": small.layout.parameters}
        checks = list(written.verification.checks)
        if arguments.json:
            print_json({"output": str(written.path), "bytes": written.bytes, "checks": checks}
                       | {"format": written.format, "parameters": sizes, "hash": small.hash}
                       | {"compensations": list(small.compensations)})  # fmt: skip
        else:
            print(
                f"Wrote {written.path}: {sizes['dense']:,} => {sizes['pruned']:,} parameters, {written.bytes:,} bytes."
            )
            print(f"Verified: {'; '.join(checks)}.")
