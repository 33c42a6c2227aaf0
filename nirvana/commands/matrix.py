"""`nirvana matrix`."""

from __future__ import annotations

import argparse

from nirvana.commands.console import print_json, print_table
from nirvana.commands.study import StudyCommand
from nirvana.errors import RunError
from nirvana.reporting.matrix import describe, in_words, row_label
from nirvana.reporting.text import plus_minus
from nirvana.runs.describe import short_text
from nirvana.runs.run import Run
from nirvana.studies.matrix import Matrix, MatrixRequest
from nirvana.studies.matrix_rows import CalibrationMatrix, read_matrix


class MatrixCommand(StudyCommand[MatrixRequest]):
    """Calibrate on each of several texts, and measure each pruned model on all of them."""

    run_title = "Texts for"
    study = Matrix()
    sections = ("model", "saliency", "allocation", "prune")
    flags = (
        *("--samples", "--length", "--seed", "--probe-samples", "--probe-length", "--probe-seed", "--task"),
        *("--window", "--max-tokens"),
    )

    def show(self, run: Run, request: MatrixRequest, arguments: argparse.Namespace) -> None:
        found = read_matrix(run.folder)
        if found is None or not found.rows:
            raise RunError("No row of the matrix was measured.", "Run it again: failed points are tried again.")
        if arguments.json:
            print_json({"run": run.id, **found.to_json()})
        else:
            _show(found)


def _show(found: CalibrationMatrix) -> None:
    columns = ["calibrated on", *map(short_text, found.texts)]
    for title, value in (
        ("KL( dense || pruned ), nats per token, evaluated on", found.kl),
        ("Perplexity over the dense model's, evaluated on", found.ratio),
    ):
        rows = [
            [row_label(found, name), *(plus_minus(*value(name, text)) for text in found.texts)]
            for name in found.calibrations
        ]
        print_table(title, columns, rows)
    dense = [f"{short_text(name)} {cell.value:,.2f}" for name, cell in zip(found.texts, found.dense, strict=True)]
    print(f"Dense perplexity: {', '.join(dense)}. ± is one standard error.")
    print(in_words(found))
    print(describe(found.protocol, found.seeds(found.calibrations[0])))
    for row in found.failed:
        print(f"{row.calibration}, seed {row.seed}: {row.failure}")
