"""`nirvana sweep`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from nirvana.commands.command import output_file
from nirvana.commands.console import print_json, print_table
from nirvana.commands.study import StudyCommand
from nirvana.files import write_bytes
from nirvana.runs.describe import percent
from nirvana.runs.recipe import RecoveryChoice
from nirvana.runs.run import Run
from nirvana.schema import options
from nirvana.studies.sweep import Sweep
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row, read_rows


class SweepCommand(StudyCommand[Grid]):
    """Measure a grid of criteria, allocations, sparsities and seeds, and list significant differences."""

    run_title = "Sweep of"
    study = Sweep()
    sections = ("model", "evaluation")
    flags = (
        *("--corpus", "--samples", "--length", "--probe-samples", "--probe-length", "--probe-seed", "--task"),
        *("--multiple-of", "--protect", "--uniform"),
        *("--statistics-samples", "--statistics-length", "--statistics-seed"),
        *(option.flag for option in options(RecoveryChoice).values() if option.name != "method"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--csv", metavar="FILE", help="write every point, one line each")

    def show(self, run: Run, request: Grid, arguments: argparse.Namespace) -> None:
        rows = {row.point: row for row in read_rows(run)}
        _show(run.id, request, [rows[point] for point in request.points()], arguments)


def _show(run_id: str, grid: Grid, rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    from nirvana.reporting import sweeps

    if arguments.csv:
        write_bytes(output_file(arguments.csv), sweeps.points_table(rows).to_csv(index=False).encode())
    if arguments.json:
        print_json({"run": run_id, "grid": grid.to_json(), "rows": [row.to_json() for row in rows]})
        return
    for metric in sweeps.metrics(rows):
        columns, lines = sweeps.comparison(rows, metric)
        dense = sweeps.dense_value(rows, metric)
        table = [["dense", "", *[_dense(metric, dense)] * len(columns)]] if dense else []
        for line in lines:
            shown = [_cell(line.cells[name]) if name in line.cells else "-" for name in columns]
            table.append([line.criterion, percent(line.asked), *shown])
        print_table(sweeps.title(metric), ["criterion", "sparsity", *columns], table)
        for verdict in sweeps.verdicts(rows, metric):
            print(f"- {sweeps.HEADINGS[verdict.kind]}. {verdict.text}")
        _recovery(rows, metric)
        print()
    print("Means over seeds ± one standard deviation; the dense model's ± is its standard error over text or items.")
    for row in rows:
        if row.failure:
            print(f"{row.point.label}: {row.failure}")


def _recovery(rows: Sequence[Row], metric: str) -> None:
    """Print each way before and after recovery, if any was recovered."""
    from nirvana.reporting.sweep_recovery import before_after, ranking_words

    pairs = before_after(rows, metric)
    if not pairs:
        return
    unit = ", over the dense model's" if metric.startswith("perplexity") else ""
    table = [
        [pair.label, pair.cell.way.recovery, *(_interval(mean) for mean in (pair.before, pair.after))] for pair in pairs
    ]
    print_table(f"Before and after recovery{unit}", ["", "recovery", "pruned", "recovered"], table)
    for line in ranking_words(pairs, metric):
        print(f"- {line}")


def _interval(mean: Any) -> str:
    return f"{mean.value:.4g}" + (f" [{mean.low:.4g}, {mean.high:.4g}]" if math.isfinite(mean.high) else "")


def _dense(metric: str, found: tuple[float, float | None]) -> str:
    from nirvana.reporting.figures.chart import plus_minus
    from nirvana.reporting.sweeps import higher_is_better

    value, error = found
    if higher_is_better(metric):
        return f"{plus_minus(100 * value, 100 * error if error is not None else None)} %"
    return plus_minus(value, error)


def _cell(cell: Any) -> str:
    from nirvana.reporting.sweeps import number

    return number(cell) + ("" if cell.fair else f" at {cell.sparsity:.1%}")
