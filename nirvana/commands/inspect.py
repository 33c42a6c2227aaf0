"""`nirvana inspect`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command
from nirvana.commands.console import print_json, print_table


class InspectCommand(Command):
    """A model's family, geometry and sizes."""

    name = "inspect"
    help = "Describe a model without reading its weights."
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", nargs="?", default="smollm2-135m")

    def run(self, arguments: argparse.Namespace) -> None:
        from nirvana.models.inspection import inspect_model

        found = inspect_model(arguments.model)
        size = found.weight_bytes("auto")
        if arguments.json:
            print_json(
                {
                    "name": found.name,
                    "origin": found.origin,
                    "note": found.note,
                    "family": found.family,
                    "stored_dtype": found.stored_dtype,
                    "geometry": found.geometry,
                    "parameters": found.layout.parameters,
                    "prunable": found.layout.prunable,
                    "float32_bytes": size,
                    "layout": found.layout.to_json(),
                }
            )
            return
        rows = [["origin", found.origin], *([["note", found.note]] if found.note else []), ["family", found.family]]
        rows += [[name.replace("_", " "), f"{value:,}"] for name, value in found.geometry.items()]
        rows += [["parameters", f"{found.layout.parameters:,}"], ["prunable", f"{found.layout.prunable:,}"]]
        rows += [["memory in float32", f"{size / 1e6:,.0f} MB"]]
        print_table(found.name, ["", "value"], rows)
