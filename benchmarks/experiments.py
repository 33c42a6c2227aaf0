"""Rows of the experiments that the dashboard shows until a class has measured its own.

    python -m benchmarks.experiments [--experiment gamma] [--model tiny-llama]

Runs each experiment as the Experiments page does, on every model that it has, writes the rows with their protocol to
nirvana/teaching/experiments/recorded, and prints whether its observation appeared.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

from nirvana.environment import set_thread_policy
from nirvana.runs.run import package_versions
from nirvana.runs.store import Store
from nirvana.studies.sweep import sweep
from nirvana.teaching.experiments.experiment import Experiment
from nirvana.teaching.experiments.recorded import Recorded, write_recorded
from nirvana.teaching.experiments.registry import EXPERIMENTS


def record(experiment: Experiment, model: str) -> None:
    """Measure and write the rows of one experiment with one model."""
    recipe, start = experiment.recipe(model), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        rows = sweep(store.create(recipe, name=experiment.title), experiment.grid)
        card = store.open(next(row.run_id for row in rows if row.run_id)).model()
    seconds = round(time.perf_counter() - start, 1)
    finding = experiment.judge(rows)
    assert finding is not None and card is not None
    place = {"device": card.device, "dtype": card.dtype, "note": card.note, "machine": platform.machine()}
    protocol = {**place, "seconds": seconds, "versions": package_versions()}
    path = write_recorded(experiment, model, Recorded(recipe, experiment.grid, tuple(rows), protocol))
    verdict = "appeared" if finding.appeared else "DID NOT APPEAR"
    print(f"{experiment.name}, {model}: {verdict}, {seconds} s, {path.stat().st_size:,} bytes", flush=True)
    print(f"    {finding.sentence}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", choices=EXPERIMENTS, action="append")
    parser.add_argument("--model", action="append")
    args = parser.parse_args()
    set_thread_policy()
    for name in args.experiment or EXPERIMENTS:
        experiment = EXPERIMENTS[name]
        for model in experiment.models:
            if model in (args.model or experiment.models):
                record(experiment, model)


if __name__ == "__main__":
    main()
