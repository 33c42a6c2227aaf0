"""`nirvana runs`."""

from __future__ import annotations

import argparse
import time
from typing import Any

from nirvana.commands.command import Command, add_json
from nirvana.commands.console import print_json, print_table
from nirvana.commands.showing import show_run, summary
from nirvana.runs.store import Store

ACTIONS = {
    "list": "List all runs.",
    "show": "Show one run with its report.",
    "delete": "Delete a run and its folder.",
    "pin": "Keep a run at the top of the list.",
    "unpin": "No longer keep a run at the top.",
    "rename": "Give a run another name.",
}


class RunsCommand(Command):
    """The list of runs, and actions on one of them."""

    name = "runs"
    help = "List the kept runs; show, rename, pin or delete one."
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
