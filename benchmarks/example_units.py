"""Inspections of units of the packaged example, beside its steps: `python -m benchmarks.example_units`.

In each layer the best neuron and the best KV group, with which the Unit page starts, are inspected and removed alone.
"""

from __future__ import annotations

import time

from nirvana.commands.console import Bar
from nirvana.evaluation.ablation import ablate_units
from nirvana.evaluation.unit_inspection import inspect_units
from nirvana.jobs.tasks.ablation import UnitRequest
from nirvana.progress import Reporter
from nirvana.reporting.figures.saliency import best_first
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.run import Run
from nirvana.runs.store import EXAMPLE, Store
from nirvana.runs.workspace import Workspace

EXCERPTS = 4  # of each unit; the example is small


def measure_units(run: Run, models: ModelCache, reporter: Reporter) -> None:
    """Store the inspections and removals of a run where they are missing."""
    workspace = Workspace.of(run, models=models, progress=reporter.progress)
    scores = workspace.saliency()
    best = [(site, int(best_first(scores, site)[0])) for site in scores.layout]
    if run.inspections() is None:
        x = workspace.calibration_set()
        found = inspect_units(workspace.lm, x, best, excerpts=EXCERPTS, progress=reporter.progress)
        run.steps.attach("units", found)
    if run.removals() is None:
        x = UnitRequest().draw(workspace)
        run.steps.attach("removals", ablate_units(workspace.lm, scores, x, units=best, progress=reporter.progress))


def main() -> None:
    started = time.perf_counter()
    with Bar().shown() as bar:
        measure_units(Store().open(EXAMPLE), ModelCache(), bar)
    print(f"{time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
