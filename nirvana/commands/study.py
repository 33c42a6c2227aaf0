"""Base of the subcommands that start or continue a study."""

from __future__ import annotations

import argparse
from abc import abstractmethod
from dataclasses import replace
from typing import Any, Generic, TypeVar

from nirvana.commands.command import Command, new_run, output_file
from nirvana.commands.console import Bar
from nirvana.errors import RunError
from nirvana.jobs.execute import check_task
from nirvana.jobs.foreground import execute_here
from nirvana.options import add_fields, given
from nirvana.runs.describe import model_name
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import SECTIONS, Recipe
from nirvana.runs.record import NAME_LENGTH
from nirvana.runs.run import Run
from nirvana.runs.store import Store
from nirvana.schema import Schema
from nirvana.studies.study import Executor, Study

Request = TypeVar("Request", bound=Schema)


class StudyBar(Bar):
    """A bar that names the run once the study has begun and can be continued."""

    def __init__(self, study: str, run_id: str) -> None:
        super().__init__()
        self._study = study
        self._line = f"Run {run_id}. If it is stopped, continue with: nirvana {study} --run {run_id}"

    def step(self, step: str, number: int = 1, steps: int = 1) -> None:
        if step == self._study and self._line:
            self.note(self._line)
            self._line = ""
        super().step(step, number, steps)


class StudyCommand(Command, Generic[Request]):
    """A study as one run that can be continued; its options follow from the request's schema.

    Class attributes:
        study: the study.
        base: default recipe of a new study.
        sections: sections of the recipe with all options.
        flags: further options of the recipe.
        run_title: name of a new study's run, before the name of the model.
    """

    group = "studies"
    study: Study[Any]
    base: Recipe = Recipe()
    sections: tuple[str, ...]
    flags: tuple[str, ...]
    run_title: str

    def __init__(self) -> None:
        self.name = self.study.name

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_fields(parser, self.study.request)
        if self.study.parallel:
            parser.add_argument(
                "--executor",
                choices=("here", "ray"),
                default="here",
                help="here: one point after the other; ray: one on each device of a Ray cluster",
            )
            parser.add_argument(
                "--address", default="", help="of the Ray cluster, e.g. auto; without it, the devices of this machine"
            )
        parser.add_argument("--run", metavar="RUN", help="continue the study of this run")
        parser.add_argument("--name", default="", help="name of the run in the list of runs")
        add_options(parser, *self.sections)
        add_options(parser, *(section for section in SECTIONS if section not in self.sections), only=self.flags)

    def adjust(self, request: Request, changed: dict[str, Any], recipe: Recipe) -> Request:
        """The request with values derived from the given options."""
        return request

    @abstractmethod
    def show(self, run: Run, request: Request, arguments: argparse.Namespace) -> None:
        """Print the study."""

    def bar(self, run: Run) -> StudyBar:
        """The reporter of the study of `run`."""
        return StudyBar(self.name, run.id)

    def run(self, arguments: argparse.Namespace) -> None:
        for file in (getattr(arguments, name, None) for name in ("output", "csv")):
            if file:
                output_file(file)  # fail before the work
        executor = _executor(arguments)
        store = Store()
        changed = given(self.study.request, arguments)
        if arguments.run:
            run = store.open(arguments.run)
            recipe = apply_options(run.recipe, arguments)
            request = self._request(self.study.last_request(run), changed, recipe)
            check_task(replace(run, recipe=recipe), self.name, request.to_json())  # before the run's recipe is changed
            if recipe != run.recipe:
                run = store.set_recipe(run.id, recipe)
            self._perform(run, request, executor)
        else:
            recipe = apply_options(self.base, arguments)
            request = self._request(None, changed, recipe)
            name = arguments.name or f"{self.run_title} {model_name(recipe)}"[:NAME_LENGTH]
            with new_run(store, recipe, name) as run:
                self._perform(run, request, executor)
        self.show(run, request, arguments)

    def _request(self, last: Any, changed: dict[str, Any], recipe: Recipe) -> Request:
        request: Any = (last or self.study.request()).with_values(**changed)
        return self.adjust(request, changed, recipe)

    def _perform(self, run: Run, request: Request, executor: Executor | None) -> None:
        bar = self.bar(run)
        with bar.shown():
            execute_here(run, self.name, request.to_json(), bar, executor=executor)


def _executor(arguments: argparse.Namespace) -> Executor | None:
    """The executor that measures the points; None for this process.

    Raises:
        RunError: an address without Ray, or Ray is not installed.
    """
    if getattr(arguments, "executor", "here") == "ray":
        from nirvana.studies.ray_executor import RayExecutor

        return RayExecutor(arguments.address)
    if getattr(arguments, "address", ""):
        raise RunError("--address is that of a Ray cluster.", "Add --executor ray.")
    return None
