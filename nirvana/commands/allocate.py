"""`nirvana allocate`."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command, output_file, read_input
from nirvana.commands.console import print_json
from nirvana.files import write_json
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import Recipe


class AllocateCommand(Command):
    """The units to keep, from scores."""

    name = "allocate"
    help = "Choose the units to keep."
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "allocation")
        parser.add_argument("--saliency", metavar="FILE", default="saliency.npz", help="from `nirvana score`")
        parser.add_argument("--output", metavar="FILE", default="plan.json")

    def run(self, arguments: argparse.Namespace) -> None:
        from nirvana.allocation.allocate import allocate
        from nirvana.layout import KV_GROUP, NEURON
        from nirvana.saliency.scores import Saliency

        choice, output = apply_options(Recipe(), arguments).allocation, output_file(arguments.output)
        saliency = read_input(arguments.saliency, Saliency.from_bytes, "saliency", "`nirvana score` writes one.")
        plan = allocate(saliency, **vars(choice))
        write_json(output, plan.to_json())
        rates = {"attention": plan.rate(KV_GROUP), "mlp": plan.rate(NEURON)}
        if arguments.json:
            print_json(
                {"output": arguments.output, "requested": plan.requested, "sparsity": plan.sparsity, **rates}
                | {"parameters": plan.pruned_layout.parameters, "notes": plan.notes}
            )
            return
        print(
            f"Wrote {arguments.output}: sparsity {plan.sparsity:.5f} (attention {rates['attention']:.1%}, "
            f"MLP {rates['mlp']:.1%}), {plan.pruned_layout.parameters:,} parameters stay."
        )
        for note in plan.notes:
            print(note)
