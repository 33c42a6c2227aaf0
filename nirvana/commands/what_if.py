"""`nirvana what-if`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.evaluation.plan_trials import PlanTrials
from nirvana.jobs.foreground import execute_here
from nirvana.options import add_fields, given
from nirvana.reporting.plan_trials import compared, protocol_words, rows
from nirvana.runs.recipe import AllocationChoice
from nirvana.runs.store import Store

WITH = {False: "by the rule", True: "edited"}


class WhatIfCommand(Command):
    """Measure KL of other plans of a stored run's model: units or layers kept or removed by hand, another sparsity."""

    name = "what-if"
    group = "runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", metavar="RUN", help="with scores, as listed by `nirvana runs`")
        add_fields(parser, AllocationChoice)

    def run(self, arguments: argparse.Namespace) -> None:
        run = Store().open(arguments.run)
        values = run.recipe.allocation.with_values(**given(AllocationChoice, arguments)).to_json()
        with Bar().shown() as bar:
            found = PlanTrials.from_json(execute_here(run, "what-if", values, bar))
        if arguments.json:
            print_json(found.to_json())
            return
        table = rows(found.items)
        shown = [name for name in table[0] if name != "edits"]
        print_table(
            "Plans",
            ["", *shown],
            [[WITH[bool(i.edits)], *(row[n] for n in shown)] for i, row in zip(found.items, table, strict=True)],
        )
        for item in found.items:
            print(*(f"Edit: {word}" for word in item.edits), sep="\n", end="\n" if item.edits else "")
        print(protocol_words(found))
        if len(found.items) > 1:
            print(compared(found.items[-1], found.items[0]))
