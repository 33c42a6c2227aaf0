"""Subcommands for stored runs: list, show, change, compare and report."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from nirvana.allocation.rules import balance
from nirvana.commands.command import Command, add_json, output_file
from nirvana.commands.console import Bar, print_json, print_report, print_table
from nirvana.files import write_bytes
from nirvana.jobs.foreground import execute_here
from nirvana.reporting.comparison import Comparison, compare_runs
from nirvana.runs.run import Run
from nirvana.runs.store import Store

ACTIONS = {
    "list": "List all runs.",
    "show": "Show one run with its report.",
    "delete": "Delete a run and its folder.",
    "pin": "Pin a run to the top of the list.",
    "unpin": "Unpin a run.",
    "rename": "Give a run another name.",
}


class RunsCommand(Command):
    """List the stored runs; show, rename, pin or delete one."""

    name = "runs"
    group = "runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.set_defaults(action="list")
        actions = parser.add_subparsers(title="actions", metavar="ACTION", help="without one, the runs are listed")
        for action, text in ACTIONS.items():
            sub = actions.add_parser(action, help=text, description=text)
            add_json(sub, argparse.SUPPRESS)
            sub.set_defaults(action=action)
            if action != "list":
                sub.add_argument("id", help='as listed, or "example"')
            if action == "rename":
                sub.add_argument("name")

    def run(self, arguments: argparse.Namespace) -> None:
        store, action = Store(), arguments.action
        if action == "list":
            _list(store, arguments.json)
            return
        run_id: str = arguments.id
        result: dict[str, Any]
        if action == "show":
            show_run(store.open(run_id), arguments.json)
            return
        if action == "delete":
            store.delete(run_id)
            result, done = {"deleted": run_id}, "Deleted"
        elif action == "rename":
            store.rename(run_id, arguments.name)
            result, done = summary(store.open(run_id)), "Renamed"
        else:
            pinned = action == "pin"
            store.pin(run_id, pinned)
            result, done = {"run": run_id, "pinned": pinned}, "Pinned" if pinned else "Unpinned"
        if arguments.json:
            print_json(result)
        else:
            print(f"{done} {run_id}.")


def _list(store: Store, as_json: bool) -> None:
    found = store.runs()
    if as_json:
        print_json([summary(item) | {"bytes": store.disk_use(item.id)} for item in found])
        return
    rows = [
        [item.id, item.name, item.status, time.strftime("%Y-%m-%d %H:%M", time.localtime(item.created)),
         f"{store.disk_use(item.id) / 1e6:.1f} MB", "pinned" if item.pinned else ""]
        for item in found
    ]  # fmt: skip
    if rows:
        print_table("", ["id", "name", "status", "created", "size", ""], rows)
    else:
        print("There are no runs yet. Start one: nirvana run")


def summary(item: Run) -> dict[str, Any]:
    """A run's entry in a list, as JSON values."""
    return {
        "id": item.id,
        "name": item.name,
        "status": item.status,
        "created": item.created,
        "pinned": item.pinned,
        "folder": str(item.folder),
        "recipe": item.recipe.to_json(),
    }


def show_run(item: Run, as_json: bool, output: Path | None = None) -> None:
    """Print the steps, the plan and the report of a run.

    Args:
        output: path of its written model.
    """
    plan, report = item.plan(), item.report()
    steps = {step: item.info(step) for step in item.recipe.steps}
    if as_json:
        result = summary(item) | {"steps": steps, "report": report.to_json() if report else None}
        result["output"] = str(output) if output else None
        if plan is not None:
            result["plan"] = {"requested": plan.requested, "sparsity": plan.sparsity, "notes": list(plan.notes)}
            if plan.budget != "parameters":
                result["plan"] |= {"budget": plan.budget, "achieved": plan.achieved}
        print_json(result)
        return
    rows = []
    for step in steps:
        info = steps[step] or {}
        seconds = info.get("seconds")
        time_spent = "" if seconds is None else f"{seconds:.1f} s" + (" (cached)" if info.get("cached") else "")
        rows.append([step, item.step_state(step), time_spent])
    print_table(f"Run {item.id}: {item.name}", ["step", "state", "time"], rows)
    if plan is not None:
        share = plan.sparsity if plan.budget == "parameters" else plan.achieved
        print(f"Sparsity {share:.5f} of {plan.requested:g} requested, {balance(plan)}.")
        for note in plan.notes:
            print(note)
    if report is not None:
        print_report(report, "Measured models")
    failure = item.failure()
    if failure:
        print(f"{failure['status']}: {failure['message']} {failure['hint']}")
    if output is not None:
        print(f"The {'recovered' if item.info('recover') else 'pruned'} model is in {output}.")


class CompareCommand(Command):
    """Compare stored runs, each against its own dense model, with significant winners."""

    name = "compare"
    group = "runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("runs", nargs="+", metavar="RUN", help='as listed by `nirvana runs`, or "example"')
        parser.add_argument("--csv", metavar="FILE", help="write every number, one a line")
        parser.add_argument(
            "--measure-alike",
            action="store_true",
            help="evaluate the other runs like the first; each gets a new run with its earlier results",
        )

    def run(self, arguments: argparse.Namespace) -> None:
        from nirvana.reporting.figures.comparison import number_table, shown_table

        store = Store()
        runs = [store.open(run_id) for run_id in arguments.runs]
        if arguments.measure_alike:
            runs = _measured_alike(store, runs)
        found = compare_runs(runs)
        if arguments.csv:
            write_bytes(output_file(arguments.csv), number_table(found).to_csv(index=False).encode())
        if arguments.json:
            print_json(found.to_json())
            return
        for column in found.columns:
            print(f"{column.run_id}: {column.heading}, {column.state}")
        table = shown_table(found)
        if not table.empty:
            print_table("", list(table.columns), [[str(cell) for cell in row] for row in table.to_numpy()])
        for line in (*found.findings, *_notes(found)):
            print(line)


def _measured_alike(store: Store, runs: list[Run]) -> list[Run]:
    """The runs with the evaluation of the first; missing ones are created and computed."""
    from nirvana.runs.model_cache import ModelCache

    models, evaluation = ModelCache(), runs[0].recipe.evaluation
    spare = [run for run in store.runs() if run.id not in {each.id for each in runs}]
    with Bar().shown() as bar:
        for place, run in enumerate(runs[1:], start=1):
            if run.recipe.evaluation != evaluation:
                runs[place] = store.measured_like(run, evaluation, spare)
                execute_here(runs[place], "run", {}, bar, models)
    return runs


def _notes(found: Comparison) -> list[str]:
    """Notes on the table."""
    notes = [
        f"≠ {column.heading} was measured differently: {', '.join(column.differs)}."
        for column in found.columns
        if column.differs
    ]
    if notes:
        notes.append("Such numbers are not compared; --measure-alike evaluates these runs like the first.")
    return [
        *notes,
        "Dense → pruned or recovered ± one standard error, and the change to the run's own dense model. ★: better than "
        "every other run; the 95 % intervals of all differences exclude zero.",
    ]


class ReportCommand(Command):
    """Write the results of a run as one HTML file."""

    name = "report"
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
