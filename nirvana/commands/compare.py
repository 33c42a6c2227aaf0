"""`nirvana compare`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command, output_file
from nirvana.commands.console import print_json, print_table
from nirvana.files import write_bytes
from nirvana.runs.comparison import compare_runs
from nirvana.runs.store import Store


class CompareCommand(Command):
    """Any set of kept runs, aligned, with the clear winners."""

    name = "compare"
    help = "Set kept runs side by side, with clear winners."
    group = "runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("runs", nargs="+", metavar="RUN", help='as listed by `nirvana runs`, or "example"')
        parser.add_argument("--csv", metavar="FILE", help="write every number, one a line")

    def run(self, arguments: argparse.Namespace) -> None:
        from nirvana.reporting.figures.comparison import number_table, shown_table

        store = Store()
        found = compare_runs([store.open(run_id) for run_id in arguments.runs])
        if arguments.csv:
            write_bytes(output_file(arguments.csv), number_table(found).to_csv(index=False).encode())
        if arguments.json:
            print_json(found.to_json())
            return
        for column in found.columns:
            print(f"{column.run_id}: {column.heading} ({column.name}), {column.state}")
        table = shown_table(found)
        if not table.empty:
            names = [name for name in table.columns if name != "protocol"]
            print_table("", names, [[str(row[name]) for name in names] for row in table.to_dict("records")])
        for finding in found.findings:
            print(finding)
        print(
            "± one standard error; in brackets the change to dense. ★: 95 % intervals of all differences exclude zero."
        )
