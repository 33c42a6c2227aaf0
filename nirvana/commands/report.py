"""`nirvana report`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command, output_file
from nirvana.commands.console import print_json
from nirvana.files import write_bytes
from nirvana.runs.store import Store


class ReportCommand(Command):
    """A run as one HTML file."""

    name = "report"
    help = "Write the results of a run as one HTML file."
    group = "runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", metavar="RUN", help='as listed by `nirvana runs`, or "example"')
        parser.add_argument("--output", metavar="FILE", help="file to write (default: RUN.html)")

    def run(self, arguments: argparse.Namespace) -> None:
        run = Store().open(arguments.run)
        output = output_file(arguments.output or f"{run.id}.html")
        from nirvana.reporting.html.report import report_html

        content = report_html(run).encode()
        write_bytes(output, content)
        if arguments.json:
            print_json({"run": run.id, "output": str(output), "bytes": len(content)})
        else:
            print(f"Wrote {output}, {len(content):,} bytes.")
