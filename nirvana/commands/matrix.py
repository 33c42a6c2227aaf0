"""`nirvana matrix`."""

from __future__ import annotations

import argparse
from typing import Any

from nirvana.commands.console import print_json, print_table
from nirvana.commands.study import StudyCommand
from nirvana.reporting.matrix import describe, file_name, in_words, row_label
from nirvana.reporting.text import plus_minus
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.studies.matrix import MATRIX
from nirvana.studies.matrix_rows import CalibrationMatrix, read_matrix


class MatrixCommand(StudyCommand):
    """Calibrate on each of several texts, and measure each pruned model on all of them."""

    name = "matrix"
    title = "Texts for"
    sections = {  # noqa: RUF012
        "model": (),
        "saliency": (),
        "allocation": (),
        "prune": (),
        "calibration": (
            "--samples",
            "--length",
            "--seed",
            "--probe-samples",
            "--probe-length",
            "--probe-seed",
            "--task",
        ),
        "evaluation": ("--window", "--max-tokens"),
    }

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--corpus",
            dest="texts",
            action="append",
            metavar="TEXT",
            required=True,
            help="text to calibrate on and to measure on; two or more",
        )
        mixture = argparse.BooleanOptionalAction
        text = "also calibrate on a uniform mixture of all texts"
        parser.add_argument("--mixture", action=mixture, default=MATRIX["mixture"], help=text)
        parser.add_argument("--seeds", type=int, default=MATRIX["seeds"], help="sets of each text (default: 1)")
        super().add_arguments(parser)

    def request(self, arguments: argparse.Namespace, run: Run | None, recipe: Recipe) -> dict[str, Any]:
        return {"corpora": arguments.texts, "mixture": arguments.mixture, "seeds": arguments.seeds}

    def show(self, run: Run, request: dict[str, Any], arguments: argparse.Namespace) -> None:
        found = read_matrix(run.folder)
        assert found is not None
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
