"""Base of the subcommands that start or continue a study."""

from __future__ import annotations

import argparse
import sys
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from nirvana.commands.command import Command, new_run
from nirvana.commands.console import Bar
from nirvana.jobs.execute import check_task
from nirvana.jobs.foreground import execute_here
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import Recipe
from nirvana.runs.record import NAME_LENGTH
from nirvana.runs.run import Run
from nirvana.runs.store import Store


class StudyCommand(Command):
    """A study as one run that can be continued.

    Class attributes:
        base: recipe of a new study where no option changes it.
        sections: options of the recipe, by section; all of a section where none are named.
        title: name of a new study's run, before the name of the model.
    """

    group = "studies"
    base: ClassVar[Recipe] = Recipe()
    sections: ClassVar[dict[str, tuple[str, ...]]]
    title: ClassVar[str]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--run", metavar="RUN", help="continue the study of this run")
        parser.add_argument("--name", default="", help="name of the run in the list of runs")
        for section, flags in self.sections.items():
            add_options(parser, section, only=flags)

    @abstractmethod
    def request(self, arguments: argparse.Namespace, run: Run | None, recipe: Recipe) -> dict[str, Any]:
        """Arguments of the task; `run` is the study to continue."""

    @abstractmethod
    def show(self, run: Run, request: dict[str, Any], arguments: argparse.Namespace) -> None:
        """Print the study."""

    def bar(self) -> Bar:
        return Bar()

    def run(self, arguments: argparse.Namespace) -> None:
        store = Store()
        if arguments.run:
            run = store.open(arguments.run)
            recipe = apply_options(run.recipe, arguments)
            request = self.request(arguments, run, recipe)
            check_task(replace(run, recipe=recipe), self.name, request)  # before the recipe of the run is changed
            if recipe != run.recipe:
                run = store.set_recipe(run.id, recipe)
            self._perform(run, request)
        else:
            recipe = apply_options(self.base, arguments)
            request = self.request(arguments, None, recipe)
            name = arguments.name or f"{self.title} {Path(recipe.model.name).name}"[:NAME_LENGTH]
            with new_run(store, recipe, name) as run:
                self._perform(run, request)
        self.show(run, request, arguments)

    def _perform(self, run: Run, request: dict[str, Any]) -> None:
        check_task(run, self.name, request)
        print(f"Run {run.id}. If it is stopped, continue with: nirvana {self.name} --run {run.id}", file=sys.stderr)
        bar = self.bar()
        with bar.shown():
            execute_here(run, self.name, request, bar)
