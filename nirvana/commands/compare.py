"""`nirvana compare`: any set of kept runs, aligned, with the clear winners."""

from __future__ import annotations

import argparse
from pathlib import Path

from nirvana.commands.console import print_json, print_table
from nirvana.runs.comparison import compare_runs
from nirvana.runs.store import Store


def compare(arguments: argparse.Namespace) -> None:
    """Show the runs side by side."""
    from nirvana.reporting.figures.comparison import number_table, shown_table

    store = Store()
    found = compare_runs([store.open(run_id) for run_id in arguments.runs])
    if arguments.csv:
        number_table(found).to_csv(Path(arguments.csv).expanduser(), index=False)
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
    print("± one standard error; in brackets the change to dense. ★: 95 % intervals of all differences exclude zero.")
