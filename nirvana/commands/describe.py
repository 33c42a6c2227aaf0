"""Descriptions of models and corpora."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command
from nirvana.commands.console import print_json, print_table


class InspectCommand(Command):
    """Describe a model without reading its weights."""

    name = "inspect"
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


class CorporaCommand(Command):
    """List the corpora, or describe one."""

    name = "corpora"
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", nargs="?")

    def run(self, arguments: argparse.Namespace) -> None:
        from nirvana.calibration.corpora.corpus import SPLITS
        from nirvana.calibration.corpora.registry import AVAILABLE, load_corpus

        if arguments.name is None:
            if arguments.json:
                print_json([vars(info) for info in AVAILABLE.values()])
            else:
                rows = [[info.name, "no" if info.offline else "yes", info.description] for info in AVAILABLE.values()]
                print_table("", ["corpus", "network", "description"], rows)
            return
        corpus = load_corpus(arguments.name)
        splits = {
            name: {"documents": len(split.documents), "characters": split.characters, "hash": split.hash}
            for name, split in ((name, corpus.split(name)) for name in SPLITS)
        }
        if arguments.json:
            print_json({"name": corpus.name, "kind": corpus.kind, "hash": corpus.hash, "splits": splits})
            return
        rows = [
            [name, f"{split['documents']:,}", f"{split['characters']:,}", str(split["hash"])[:16]]
            for name, split in splits.items()
        ]
        title = f"{corpus.name} ({corpus.kind}), {corpus.hash[:16]}"
        print_table(title, ["split", "documents", "characters", "hash"], rows)
