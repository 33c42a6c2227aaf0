"""`nirvana runs`: list, show, delete, pin, rename."""

from __future__ import annotations

import argparse
import time
from typing import Any

from nirvana.commands.console import print_json, print_table
from nirvana.commands.run import show_run, summary
from nirvana.runs.store import Store


def list_runs(arguments: argparse.Namespace) -> None:
    store = Store()
    found = store.runs()
    if arguments.json:
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
        print("There are no runs yet. Start one: python -m nirvana run")


def show(arguments: argparse.Namespace) -> None:
    show_run(Store().open(arguments.id), arguments.json, None)


def delete(arguments: argparse.Namespace) -> None:
    Store().delete(arguments.id)
    _say(arguments, {"deleted": arguments.id}, f"Deleted {arguments.id}.")


def pin(arguments: argparse.Namespace) -> None:
    pinned = arguments.action == "pin"
    Store().pin(arguments.id, pinned)
    _say(arguments, {"run": arguments.id, "pinned": pinned}, f"{'Pinned' if pinned else 'Unpinned'} {arguments.id}.")


def rename(arguments: argparse.Namespace) -> None:
    store = Store()
    store.rename(arguments.id, arguments.name)
    _say(arguments, summary(store.open(arguments.id)), f"Renamed {arguments.id}.")


def _say(arguments: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    if arguments.json:
        print_json(result)
    else:
        print(text)
