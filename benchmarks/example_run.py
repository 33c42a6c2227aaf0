"""Regenerate the packaged example run: `python -m benchmarks.example_run`.

The pipeline computes a real run (by default of SmolLM2-135M with the recommended recipe, recovery included, and the
minimal pairs), its speed and quality against bytes are measured, a small sweep, a search and a matrix are made around
it, and the results, without weights, are copied to nirvana/runs/example. Run it on an idle machine, since it measures
speed and trains for minutes. With --work an interrupted one continues; with --studies the packaged run is kept, and
only the studies around it are made anew.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.example_studies import copy_studies, measure_studies
from benchmarks.example_theory import copy_theory, measure_theory
from benchmarks.example_units import measure_units
from nirvana.commands.console import Bar, print_report
from nirvana.errors import NirvanaError, RunError
from nirvana.jobs.execute import execute
from nirvana.jobs.tasks.measurements import LOSS_CURVES
from nirvana.runs.folder import StepFolder
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.pipeline import compute_steps
from nirvana.runs.presets import PRESETS
from nirvana.runs.recipe import STEPS, Recipe
from nirvana.runs.run import Run
from nirvana.runs.store import EXAMPLE, EXAMPLE_FOLDER, Store, write_example

LIMIT = 2_000_000  # bytes; it is part of the package
NAME = "Example: SmolLM2-135M"
TEXT = "python-docs + library-docs + self-generated"  # all that is at hand without a download, except source code
RECIPE = (
    PRESETS["recommended"]
    .recipe()
    .change("calibration", corpus=TEXT)
    .change("evaluation", zero_shot=("minimal-pairs",))
)
SCHEMES = ("int8", "int4")
PROMPTS = ("A function in Python is defined with", "The most important thing about a good library is")
NEW_TOKENS = 48


def measure_sides(run: Run, models: ModelCache, bar: Bar) -> None:
    """Compute loss curves, speed, sizes and continuations, which pages compute on demand, where they are missing."""
    known = {"sensitivity": run.sensitivity(), "speed": run.speed(), "sizes": run.sizes()}
    requests = {"sensitivity": LOSS_CURVES.to_json(), "speed": {}, "sizes": {"schemes": list(SCHEMES)}}
    for task, request in requests.items():
        if known[task] is None:
            execute(run, task, request, bar, models)
    done = {each.prompt for each in run.continuations()}
    for prompt in PROMPTS:
        if prompt not in done:
            execute(run, "continue", {"prompt": prompt, "max_new_tokens": NEW_TOKENS}, bar, models)


def open_run(store: Store, recipe: Recipe, name: str) -> Run:
    """The run of an interrupted call with the same recipe, or a new one."""
    same = (run for run in store.runs() if run.name == name and run.recipe == recipe)
    return next(same, None) or store.create(recipe, name=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_options(parser, "model", "calibration", "saliency", "allocation", "prune", "recovery", "evaluation")
    parser.add_argument("--folder", type=Path, default=EXAMPLE_FOLDER, help="output folder")
    parser.add_argument("--name", default=NAME)
    parser.add_argument("--work", type=Path, help="folder of the run while it is computed; default: a temporary one")
    parser.add_argument("--studies", action="store_true", help="only the studies, around the packaged run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(arguments.work or Path(temporary))
        recipe = store.open(EXAMPLE).recipe if arguments.studies else apply_options(RECIPE, arguments)
        run = open_run(store, recipe, arguments.name)
        started, models = time.perf_counter(), ModelCache()
        with Bar().shown() as bar:
            if not arguments.studies:
                compute_steps(run, progress=bar.progress, models=models, on_step=bar.step)
                measure_sides(run, models, bar)
                measure_units(run, models, bar)
                measure_theory(run, models, bar)
            measure_studies(run, models, bar)
        if not arguments.studies:
            write(run, arguments.folder)
            copy_theory(run, arguments.folder)
        copy_studies(run, arguments.folder)
    size = StepFolder(arguments.folder).size()
    print(f"{time.perf_counter() - started:.1f} s in all; {size:,} bytes in {arguments.folder}")
    if size > LIMIT:
        raise RunError(f"The example takes {size:,} bytes; the limit is {LIMIT:,}.", "Draw less text.")


def write(run: Run, folder: Path) -> None:
    """Copy the results of the steps to `folder`, without weights, and print them."""
    write_example(run, folder)
    for step in STEPS:
        info = run.info(step) or {}
        print(f"{step:12} {info.get('seconds', 0):7.1f} s{'  (cached)' if info.get('cached') else ''}")
    report = run.report()
    if report is not None:
        print_report(report, NAME)


if __name__ == "__main__":
    try:
        main()
    except NirvanaError as error:
        sys.exit(str(error))
