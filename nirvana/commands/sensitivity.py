"""`nirvana sensitivity`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.evaluation.sensitivity_result import Sensitivity
from nirvana.jobs.foreground import execute_here
from nirvana.jobs.tasks.sensitivity import ScanRequest
from nirvana.options import add_fields, given
from nirvana.runs.store import Store

SHOWN = 12  # modules


class SensitivityCommand(Command):
    """A scan with the scores of a kept run; the result is kept with the run."""

    name = "sensitivity"
    help = "Prune each module of a kept run's model alone, and show the most sensitive ones."
    group = "runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", metavar="RUN", help="with scores, as listed by `nirvana runs`")
        add_fields(parser, ScanRequest)

    def run(self, arguments: argparse.Namespace) -> None:
        run = Store().open(arguments.run)
        with Bar().shown() as bar:
            result = execute_here(run, "sensitivity", given(ScanRequest, arguments), bar)
        if arguments.json:
            print_json(result)
            return
        from nirvana.reporting.figures.sensitivity import scan_heatmap

        scores = run.saliency()
        assert scores is not None
        chart = scan_heatmap(Sensitivity.from_json(result), scores.layout, run.plan())
        rows = [
            [str(row["layer"]), row["module"], f"{row['KL']:.4g} ± {row['standard error']:.2g}"]
            for row in chart.table.head(SHOWN).to_dict("records")
        ]
        print_table("The most sensitive modules", ["layer", "module", "KL, nats"], rows)
        print(chart.takeaway)
