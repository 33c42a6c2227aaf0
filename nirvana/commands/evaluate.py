"""`nirvana evaluate`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command, load
from nirvana.commands.console import Bar, print_json, print_report
from nirvana.evaluation.results import Report
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import Recipe
from nirvana.runs.validation import check_recipe

PROBE = ("--corpus", "--probe-samples", "--probe-length", "--probe-seed", "--task")


class EvaluateCommand(Command):
    """Measurements of a model, and of the dense model that it was pruned from."""

    name = "evaluate"
    help = "Measure perplexity and zero-shot tasks, and KL from a dense model."
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model", "evaluation")
        add_options(parser, "calibration", only=PROBE)
        parser.add_argument("--dense", metavar="MODEL", help="the model that --model was pruned from")

    def run(self, arguments: argparse.Namespace) -> None:
        recipe = apply_options(Recipe(), arguments)
        check_recipe(recipe, ("model", "evaluate"))
        with Bar().shown() as bar:
            lm = load(recipe.model, bar)
            from nirvana.runs.measurements import measure
            from nirvana.runs.workspace import Workspace

            subjects, probe = {"pruned" if lm.is_pruned else "dense": lm}, None
            if arguments.dense is not None:
                dense = load(recipe.model.with_values(name=arguments.dense), bar)
                subjects = {"dense": dense, "pruned": lm}
                probe = Workspace(recipe, lm=dense, progress=bar.progress).draw_probe()
            bar.step("evaluation")
            corpora = Workspace(recipe, lm=lm, progress=bar.progress).evaluation_texts()
            task = recipe.calibration.task
            report = Report(tuple(measure(subjects, corpora, recipe.evaluation, probe, bar.progress, task=task)))
        if arguments.json:
            print_json(report.to_json())
        else:
            print_report(report, lm.source.name)
