"""`nirvana search-allocation`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import output_file
from nirvana.commands.console import print_json, print_table
from nirvana.commands.study import StudyBar, StudyCommand
from nirvana.errors import RunError
from nirvana.files import write_json
from nirvana.reporting.allocation_search import (
    headline,
    moved,
    protocol_words,
    searched_choice,
    verdict,
)
from nirvana.reporting.text import short
from nirvana.runs.run import Run
from nirvana.studies.allocation_search import AllocationStudy, SearchRequest
from nirvana.studies.allocation_steps import SearchStep, accepted, read_steps


class SearchAllocationCommand(StudyCommand[SearchRequest]):
    """Search for a better allocation of the same budget, by KL on probe text."""

    run_title = "Allocation search for"
    study = AllocationStudy()
    sections = ("model", "calibration", "saliency", "allocation", "prune")
    flags = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--output", metavar="FILE", help="write the recipe with the best plan here, for `run`")

    def bar(self, run: Run) -> StudyBar:
        return _Steps(self.name, run.id)

    def show(self, run: Run, request: SearchRequest, arguments: argparse.Namespace) -> None:
        settings, steps = read_steps(run.folder)
        if settings is None or not accepted(steps):
            why = steps[0].failure if steps else "There was no time."
            raise RunError(f"No plan was measured. {why}", "Search for longer.")
        recipe = run.recipe.with_values(allocation=searched_choice(run.recipe.allocation, settings, steps))
        if arguments.output:
            write_json(output_file(arguments.output), recipe.to_json())
        if arguments.json:
            print_json(
                {
                    "run": run.id,
                    "best": recipe.to_json(),
                    "settings": settings,
                    "steps": [step.to_json() for step in steps],
                }
            )
            return
        print_table("The best plan", ["measurement", "value", "change"], [list(row) for row in headline(steps)])
        print(verdict(steps))
        print(moved(settings, steps))
        print(protocol_words(settings))


class _Steps(StudyBar):
    """A bar with a line above it for each accepted plan."""

    def row(self, row: object) -> None:
        assert isinstance(row, SearchStep)
        if row.accepted:
            self.note(
                f"{row.number:>5}  KL {short(row.kl):<8}  held out {short(row.held_out_kl):<8}  {row.seconds:.1f} s"
            )
