"""Seconds of a model's modules by their size: the cost table of a budget in time."""

from __future__ import annotations

import argparse

from nirvana.commands.command import Command, output_file
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.costs import PHASES, CostTable
from nirvana.errors import RunError
from nirvana.files import write_json
from nirvana.options import add_fields, given
from nirvana.runs.costs import CostRequest, cached_costs
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.recipe import ModelChoice

SHOWN = 12  # sizes of a module


class CostsCommand(Command):
    """Time attention and MLP by their size on this machine, for a budget in time."""

    name = "costs"
    group = "steps"
    example = "nirvana costs smollm2-135m --phase decode --length 512 --output costs.json"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", metavar="MODEL", help="built-in name, hub id, folder or .gguf file")
        add_fields(parser, CostRequest)
        add_fields(parser, ModelChoice, only=("--device", "--dtype"))
        parser.add_argument("--output", metavar="FILE", default="costs.json", help="cost table of the one phase")

    def run(self, arguments: argparse.Namespace) -> None:
        request = CostRequest(**{"phases": PHASES[:1], **given(CostRequest, arguments)})
        if len(request.phases) != 1:
            raise RunError("A cost table has one phase.", f"Give --phase once: {' or '.join(PHASES)}.")
        output = output_file(arguments.output)
        choice = ModelChoice(**{**given(ModelChoice, arguments), "name": arguments.model})
        how = {"batch": request.batch, "length": request.length, "repeats": request.repeats}
        with Bar().shown() as bar:
            bar.step("model")
            lm = ModelCache().dense(choice, bar.progress)
            bar.step("costs")
            table = cached_costs(lm, phase=request.phases[0], **how, progress=bar.progress)
        write_json(output, table.to_json())
        if arguments.json:
            print_json(table.to_json())
            return
        _print(table)
        print(f"Wrote {arguments.output}.")


def _print(table: CostTable) -> None:
    where = table.protocol
    rows = []
    for (stack, module), kind in table.modules.items():
        every = max(1, -(-len(kind.sizes) // SHOWN))
        for size, cost in list(zip(kind.sizes, kind.costs, strict=True))[::-every][::-1]:
            rows.append([f"{stack} {module}", f"{size:,}", f"{cost * 1e3:.4g}"])
    title = f"Milliseconds of a module, {where['phase']}, {where['batch']} x {where['length']:,} tokens"
    print_table(title, ["module", "units", "ms"], rows)
    layers = ", ".join(f"{stack} {cost * 1e3:.3g} ms" for stack, cost in table.blocks.items())
    print(f"A layer outside its modules: {layers}. Outside the layers: {table.fixed * 1e3:.4g} ms.")
    print(
        f"Medians of about {where['repeats']} timings, whose quartiles are typically {where['spread']:.0%} apart. "
        f"{where['dtype']} on {where['device']}, {where['threads']} thread{'' if where['threads'] == 1 else 's'}."
    )
