"""`nirvana unit`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.evaluation.unit_inspection_results import Excerpt, UnitInspection, UnitInspections
from nirvana.jobs.execute import check_task
from nirvana.jobs.foreground import execute_here
from nirvana.jobs.tasks.ablation import UnitChoice
from nirvana.layout import Site
from nirvana.options import add_fields, given
from nirvana.reporting.text import short
from nirvana.runs.store import Store

AROUND = 8  # tokens on either side of the peak


class UnitCommand(Command):
    """The calibration tokens that drive one unit of a stored run's model most, and the norms of its weights."""

    name = "unit"
    group = "runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", metavar="RUN", help="with scores, as listed by `nirvana runs`")
        add_fields(parser, UnitChoice)

    def run(self, arguments: argparse.Namespace) -> None:
        run, values = Store().open(arguments.run), given(UnitChoice, arguments)
        check_task(run, "inspect-unit", values)
        chosen, known = UnitChoice.from_json(values), run.inspections()
        found = None if known is None else known.of(Site.from_key(chosen.site), chosen.unit)
        if found is None:
            with Bar().shown() as bar:
                found = UnitInspections.from_json(execute_here(run, "inspect-unit", values, bar)).items[0]
        if arguments.json:
            print_json(UnitInspections((found,)).to_json())
        else:
            _show(found)


def _show(found: UnitInspection) -> None:
    excerpts = [[short(item.value), str(item.sample), _words(item)] for item in found.excerpts]
    print_table(f"Text that drives {found.kind} {found.unit} of {found.site.key}", ["value", "sample", ""], excerpts)
    tokens = [[repr(text), str(count), short(mean)] for text, count, mean in found.tokens]
    print_table("Tokens with the largest mean size", ["token", "occurrences", "mean"], tokens)
    weights = [[name, short(norm), short(mean), str(place)] for name, norm, mean, place in found.weights]
    print_table("Norms of its weights", ["weight", "norm", "mean of the module", "place"], weights)


def _words(item: Excerpt) -> str:
    """The tokens around the peak, which is in brackets."""
    before = "".join(item.texts[max(0, item.peak - AROUND) : item.peak])
    after = "".join(item.texts[item.peak + 1 : item.peak + 1 + AROUND])
    return f"{before}[{item.texts[item.peak]}]{after}".replace("\n", "↵")
