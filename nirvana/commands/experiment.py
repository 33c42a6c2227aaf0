"""`nirvana experiment`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command, new_run
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.errors import RunError
from nirvana.jobs.foreground import execute_here
from nirvana.reporting.text import plus_minus
from nirvana.runs.store import Store
from nirvana.studies.sweep_rows import read_rows
from nirvana.teaching.experiments.registry import EXPERIMENTS, find_experiment

NOT_SEEN = 1  # exit code


class ExperimentCommand(Command):
    """Measure an experiment for a class; the exit code is 1 if its observation does not appear."""

    name = "experiment"
    group = "studies"
    example = "nirvana experiment gamma --model tiny-llama"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        lines = "; ".join(f"{each.name}: {each.title}" for each in EXPERIMENTS.values())
        parser.add_argument("experiment", choices=EXPERIMENTS, help=lines)
        parser.add_argument("--model", default="", help="one of the experiment's models, by default the first")

    def run(self, arguments: argparse.Namespace) -> int:
        experiment = find_experiment(arguments.experiment)
        model = arguments.model or experiment.models[0]
        if model not in experiment.models:
            known = ", ".join(experiment.models)
            raise RunError(f"This experiment is not made for {model!r}.", f"Its models are {known}.")
        store = Store()
        with Bar().shown() as bar, new_run(store, experiment.recipe(model), experiment.title) as run:
            execute_here(run, "sweep", experiment.grid.to_json(), bar)
        rows = experiment.own(read_rows(run))
        finding = experiment.judge(rows)
        if finding is None:
            raise RunError("A point is missing.", f"Continue with: nirvana sweep --run {run.id}")
        if arguments.json:
            found = {"appeared": finding.appeared, "finding": finding.sentence}
            print_json(
                {
                    "run": run.id,
                    "experiment": experiment.name,
                    "model": model,
                    **found,
                    "rows": [row.to_json() for row in rows],
                }
            )
        else:
            table = [
                [row.point.label, *(plus_minus(each.value, each.error) for each in row.values.values())]
                for row in rows
                if not row.failure
            ]
            names = list(next((row.values for row in rows if row.values), {}))
            print_table(experiment.title, ["point", *names], table)
            print(f"Look for: {experiment.look}\n{finding.sentence}")
            print("The observation appears." if finding.appeared else "The observation does not appear here.")
        return 0 if finding.appeared else NOT_SEEN
