"""`nirvana matrix`: calibration text against evaluation text; the matrix is a run's, and can be continued."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nirvana.commands.console import Bar, print_json, print_table
from nirvana.reporting.matrix import describe, file_name, in_words, row_label
from nirvana.reporting.text import plus_minus
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.studies.matrix import MATRIX, calibration_matrix, check_matrix
from nirvana.studies.matrix_rows import CalibrationMatrix

DRAWN = ("--samples", "--length", "--seed", "--probe-samples", "--probe-length", "--probe-seed", "--task")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The texts, and the choices that every model is pruned with."""
    parser.add_argument(
        "--corpus",
        dest="texts",
        action="append",
        metavar="TEXT",
        required=True,
        help="to calibrate and to measure on; two or more",
    )
    mixture = argparse.BooleanOptionalAction
    parser.add_argument(
        "--mixture", action=mixture, default=MATRIX["mixture"], help="calibrate on equal shares of all texts as well"
    )
    parser.add_argument("--seeds", type=int, default=MATRIX["seeds"], help="sets of each text, averaged (default: 1)")
    parser.add_argument("--run", metavar="RUN", help="continue the matrix of this run")
    parser.add_argument("--name", default="", help="name of the run in the list of runs")
    add_options(parser, "model", "saliency", "allocation", "prune")
    add_options(parser, "calibration", only=DRAWN)
    add_options(parser, "evaluation", only=("--window", "--max-tokens"))


def matrix(arguments: argparse.Namespace) -> None:
    """Compute the rows that are missing, then show all of it."""
    from nirvana.jobs.foreground import foreground_job

    store = Store()
    run = store.open(arguments.run) if arguments.run else None
    recipe = apply_options(run.recipe if run else Recipe(), arguments)
    if run is None:
        run = store.create(recipe, name=arguments.name or f"Texts for {Path(recipe.model.name).name}"[:120])
    elif recipe != run.recipe:
        run = store.set_recipe(run.id, recipe)
    asked = {"mixture": arguments.mixture, "seeds": arguments.seeds}
    check_matrix(run, "evaluate", corpora=arguments.texts, **asked)
    print(f"Run {run.id}. If it is stopped, go on with the same options and --run {run.id}", file=sys.stderr)
    with Bar().shown() as bar, foreground_job(store, run, "evaluate", "matrix"):
        from nirvana.runs.model_cache import ModelCache

        models = ModelCache()
        bar.step("model")
        lm = models.dense(recipe.model, bar.progress)
        bar.step("matrix")
        found = calibration_matrix(
            lm, arguments.texts, base=recipe, folder=run.folder, models=models, progress=bar.progress, **asked
        )
    if arguments.json:
        print_json({"run": run.id, **found.to_json()})
    else:
        _show(found)


def _show(found: CalibrationMatrix) -> None:
    columns = ["calibrated on", *map(file_name, found.texts)]
    for title, value in (
        ("KL( dense || pruned ), nats per token, read on", found.kl),
        ("Perplexity over the dense model's, read on", found.ratio),
    ):
        rows = [
            [row_label(found, name), *(plus_minus(*value(name, text)) for text in found.texts)]
            for name in found.calibrations
        ]
        print_table(title, columns, rows)
    dense = [f"{file_name(name)} {cell.value:,.2f}" for name, cell in zip(found.texts, found.dense, strict=True)]
    print(f"Dense perplexity: {', '.join(dense)}. ± is one standard error.")
    print(in_words(found))
    print(describe(found.protocol, found.seeds(found.calibrations[0])))
