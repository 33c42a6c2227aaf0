"""`nirvana calibrate`."""

from __future__ import annotations

import argparse
from typing import Any

from nirvana.calibration.sets import CalibrationSelection
from nirvana.commands.command import Command, load, output_file
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.files import write_bytes
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import Recipe
from nirvana.runs.validation import check_recipe


class CalibrateCommand(Command):
    """The calibration step of a run, through the same cache."""

    name = "calibrate"
    help = "Draw calibration sets and choose one by KL."
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model", "calibration")
        parser.add_argument("--output", metavar="FILE", default="calibration.npz")

    def run(self, arguments: argparse.Namespace) -> None:
        recipe, output = apply_options(Recipe(), arguments), output_file(arguments.output)
        check_recipe(recipe, ("model", "calibration"))
        with Bar().shown() as bar:
            lm = load(recipe.model, bar)
            from nirvana.runs.workspace import Workspace

            bar.step("calibration")
            chosen = Workspace(recipe, lm=lm, progress=bar.progress).calibration()
        write_bytes(output, chosen.to_bytes())
        winner = chosen.calibration if isinstance(chosen, CalibrationSelection) else chosen
        result: dict[str, Any] = {"output": arguments.output, "hash": chosen.hash}
        result |= {"corpus": winner.source, "corpus_hash": winner.source_hash}
        if isinstance(chosen, CalibrationSelection):
            result["winner"] = chosen.winner
            result["candidates"] = [
                {"hash": c.calibration.hash, "corpus": c.calibration.source, "seed": c.calibration.seed,
                 "kl": c.divergence.mean, "standard_error": c.divergence.standard_error, "sparsity": c.sparsity}
                for c in chosen.candidates
            ]  # fmt: skip
        if arguments.json:
            print_json(result)
            return
        if isinstance(chosen, CalibrationSelection):
            rows = []
            for index in chosen.ranking:
                drawn, kl = chosen.candidates[index].calibration, chosen.candidates[index].divergence
                mark = "chosen" if index == chosen.winner else ""
                value = f"{kl.mean:.4f} ± {kl.standard_error:.4f}"
                rows.append([str(index), drawn.source, str(drawn.seed), value, mark])
            print_table("KL( dense || pruned ), nats per token", ["candidate", "text", "seed", "mean", ""], rows)
        print(f"Wrote {arguments.output}, set {chosen.hash[:16]}.")
