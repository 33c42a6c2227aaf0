"""`nirvana score`."""

from __future__ import annotations

import argparse

from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.commands.command import Command, load, output_file, read_input
from nirvana.commands.console import Bar, print_json
from nirvana.errors import RunError
from nirvana.files import write_bytes
from nirvana.options import add_fields, given
from nirvana.runs.folder import FORMATS
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import LAST_SEED, Recipe
from nirvana.runs.validation import check_recipe
from nirvana.saliency.criteria import find_criterion
from nirvana.schema import Schema, option

HINT = "`nirvana calibrate` writes one."


class Draw(Schema):
    """Seed of the random criterion."""

    seed: int = option(0, "--seed", "seed of the random criterion; a calibration set has one", ge=0, le=LAST_SEED)


class ScoreCommand(Command):
    """The scores of all units of a model."""

    name = "score"
    help = "Score every prunable unit."
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model", "saliency")
        parser.add_argument(
            "--calibration", metavar="FILE", help="from `nirvana calibrate`; magnitude and random need none"
        )
        add_fields(parser, Draw)
        parser.add_argument("--output", metavar="FILE", default="saliency.npz")

    def run(self, arguments: argparse.Namespace) -> None:
        recipe, output = apply_options(Recipe(), arguments), output_file(arguments.output)
        check_recipe(recipe, ("model", "saliency"))
        criterion, drawn = recipe.saliency.criterion, given(Draw, arguments)
        calibration: CalibrationSet | None = None
        if arguments.calibration is not None:
            chosen = read_input(arguments.calibration, FORMATS["calibration"].read, "calibration set", HINT)
            calibration = chosen.calibration if isinstance(chosen, CalibrationSelection) else chosen
        elif find_criterion(criterion).reads != "nothing":
            raise RunError("This criterion reads text.", f"Give --calibration FILE; {HINT}")
        seed = Draw(**drawn).seed if drawn or calibration is None else calibration.seed or 0
        with Bar().shown() as bar:
            lm = load(recipe.model, bar)
            from nirvana.saliency.score import score

            bar.step("saliency")
            found = score(lm, calibration, criterion=criterion, seed=seed, progress=bar.progress)
        write_bytes(output, found.to_bytes())
        if arguments.json:
            sites = {site.key: {"units": len(v), "mean": float(v.mean())} for site, v in found.items()}
            print_json(
                {"output": arguments.output, "hash": found.hash, "criterion": found.criterion, "details": found.details}
                | {"calibration_hash": found.calibration_hash, "sites": sites}
            )
            return
        units = sum(len(values) for values in found.values())
        print(f"Wrote {arguments.output}: {units:,} scores of {len(found)} sites, {found.criterion}.")
