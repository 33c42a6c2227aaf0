"""`nirvana report`: a run as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from nirvana.commands.console import print_json
from nirvana.files import write_bytes
from nirvana.runs.store import Store


def report(arguments: argparse.Namespace) -> None:
    run = Store().open(arguments.run)
    from nirvana.reporting.html.report import report_html

    output = Path(arguments.output).expanduser() if arguments.output else Path(f"{run.id}.html")
    content = report_html(run).encode()
    write_bytes(output, content)
    if arguments.json:
        print_json({"run": run.id, "output": str(output), "bytes": len(content)})
    else:
        print(f"Wrote {output}, {len(content):,} bytes.")
