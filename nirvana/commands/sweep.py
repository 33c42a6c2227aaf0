"""`nirvana sweep`: a grid of criteria, allocations, sparsities and seeds, as one run that can be continued."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nirvana.allocation.rules import METHODS
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.compensation import METHODS as COMPENSATIONS
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.saliency.criteria import available
from nirvana.studies.sweep_grid import LISTS, Grid, Point
from nirvana.studies.sweep_rows import Row, read_grid

FIXED = ("--corpus", "--samples", "--length", "--probe-samples", "--probe-length", "--probe-seed", "--task")
STATISTICS = ("--statistics-samples", "--statistics-length", "--statistics-seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the grid, several values of each, and of the recipe around it."""
    grid = Grid()
    options: tuple[tuple[str, str, Any, Any, str], ...] = (
        ("--criterion", "criteria", str, available(), "how units are scored"),
        ("--method", "methods", str, METHODS, "shared: the same allocation for all; published: each as its authors do"),
        ("--sparsity", "sparsities", float, None, "share of attention and MLP weights to remove"),
        ("--seed", "seeds", int, None, "of the draw of the calibration set"),
        ("--compensation", "compensations", str, COMPENSATIONS, "of the output projections, in the shared allocation"),
        ("--gamma", "gammas", float, None, "MLP rate over attention rate, in the shared allocation"),
        ("--normalisation", "normalisations", float, None, "0 to 1: bring layers' scores to the same mean, likewise"),
    )
    for flag, name, kind, choices, words in options:
        shown = " ".join(map(str, getattr(grid, name)))
        help_text = f"{words}; may be repeated (default: {shown})"
        metavar = flag.strip("-").upper()
        parser.add_argument(
            flag, dest=name, type=kind, choices=choices, action="append", metavar=metavar, help=help_text
        )
    speed = argparse.BooleanOptionalAction
    parser.add_argument("--speed", action=speed, default=None, help="time each pruned model, in turns with the dense")
    parser.add_argument("--run", metavar="RUN", help="continue the sweep of this run, or extend it by other values")
    parser.add_argument("--name", default="", help="name of the run in the list of runs")
    parser.add_argument("--csv", metavar="FILE", help="write every point, one line each")
    add_options(parser, "model", "evaluation")
    add_options(parser, "calibration", only=FIXED)
    add_options(parser, "allocation", only=("--multiple-of", "--protect", "--uniform"))
    add_options(parser, "prune", only=STATISTICS)


def sweep(arguments: argparse.Namespace) -> None:
    """Compute what is missing of the grid, then show all of it."""
    from nirvana.jobs.foreground import foreground_job
    from nirvana.studies.sweep import check_sweep
    from nirvana.studies.sweep import sweep as compute

    store = Store()
    base = store.open(arguments.run) if arguments.run else None
    recipe = apply_options(base.recipe if base else Recipe(), arguments)
    known = (read_grid(base) if base else None) or Grid()
    given = {name: tuple(dict.fromkeys(values)) for name in LISTS if (values := getattr(arguments, name)) is not None}
    speed = known.speed if arguments.speed is None else arguments.speed
    grid = replace(known, **given, speed=speed)
    grid.check()
    if base is None:
        base = store.create(recipe, name=arguments.name or f"Sweep of {Path(recipe.model.name).name}"[:120])
    elif recipe != base.recipe:
        base = store.set_recipe(base.id, recipe)
    check_sweep(base, "evaluate", grid.to_json())
    print(f"Run {base.id}. If it is stopped, go on with: python -m nirvana sweep --run {base.id}", file=sys.stderr)
    with Bar().shown() as bar, foreground_job(store, base, "evaluate", "sweep"):

        def on_point(point: Point, number: int, points: int) -> None:
            bar.step(point.label, number, points)

        rows = compute(base, grid, progress=bar.progress, on_point=on_point)
    _show(base.id, grid, rows, arguments)


def _show(run_id: str, grid: Grid, rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    from nirvana.reporting import sweeps

    if arguments.csv:
        sweeps.points_table(rows).to_csv(Path(arguments.csv).expanduser(), index=False)
    if arguments.json:
        print_json({"run": run_id, "grid": grid.to_json(), "rows": [row.to_json() for row in rows]})
        return
    for metric in sweeps.metrics(rows):
        columns, lines = sweeps.comparison(rows, metric)
        dense = sweeps.dense_value(rows, metric)
        table = [["dense", "", *[_dense(metric, dense)] * len(columns)]] if dense else []
        for line in lines:
            shown = [_cell(line.cells[name]) if name in line.cells else "-" for name in columns]
            table.append([line.criterion, f"{line.asked * 100:.3g} %", *shown])
        print_table(sweeps.title(metric), ["criterion", "sparsity", *columns], table)
        for verdict in sweeps.verdicts(rows, metric):
            print(f"- {sweeps.HEADINGS[verdict.kind]}. {verdict.text}")
        print()
    print("Means over seeds ± one standard deviation; the dense model's ± is its standard error over text or items.")
    for row in rows:
        if row.failure:
            print(f"{row.point.label}: {row.failure}")


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
