"""`nirvana corpora`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command
from nirvana.commands.console import print_json, print_table


class CorporaCommand(Command):
    """The corpora, or the splits of one."""

    name = "corpora"
    help = "List the corpora, or describe one."
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
