"""Measure the theory on the packaged example: `python -m benchmarks.example_theory`.

Removes units of the example's model one by one, and measures the shift of the tangent kernel, in a copy of the run. The
results, a few dozen kilobytes, are copied to nirvana/runs/example, where the Method page reads them. With --work an
interrupted measurement continues.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from nirvana.commands.console import Bar
from nirvana.errors import NirvanaError
from nirvana.jobs.execute import execute
from nirvana.jobs.tasks.ablation import AblationRequest
from nirvana.progress import Reporter
from nirvana.runs.folder import StepFolder
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.run import Run
from nirvana.runs.store import EXAMPLE, EXAMPLE_FOLDER, Store
from nirvana.studies.kernel import KernelRequest
from nirvana.studies.kernel_rows import FILE as KERNEL

ABLATION = AblationRequest(count=240, samples=4)  # all 90 KV groups of SmolLM2-135M, and 150 neurons
SHIFT = KernelRequest(sparsities=(0.05, 0.1, 0.2, 0.4), samples=6)


def measure_theory(run: Run, models: ModelCache, reporter: Reporter) -> None:
    """Attach the removals of single units where they are missing, and compute the missing points of the kernel study.

    `run` has scores, and is not the packaged example itself.
    """
    if run.ablations() is None:
        execute(run, "ablation", ABLATION.to_json(), reporter, models)
    execute(run, "kernel", SHIFT.to_json(), reporter, models)


def copy_theory(run: Run, folder: Path) -> None:
    """Copy both to `folder`, which has the scores of `run`; `write_example` removes what was there before."""
    StepFolder(folder).copy_attachments(run.steps)
    if (run.folder / KERNEL).exists():
        shutil.copyfile(run.folder / KERNEL, folder / KERNEL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=EXAMPLE_FOLDER, help="output folder, with the example's scores")
    parser.add_argument("--work", type=Path, help="folder of the run while it is measured; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(arguments.work or Path(temporary))
        example = store.open(EXAMPLE)
        run = next(iter(store.runs()), None) or store.create(example.recipe, parent=example, name=example.name)
        started = time.perf_counter()
        with Bar().shown() as bar:
            measure_theory(run, ModelCache(), bar)
        copy_theory(run, arguments.folder)
    print(f"{time.perf_counter() - started:.1f} s; {StepFolder(arguments.folder).size():,} bytes in {arguments.folder}")


if __name__ == "__main__":
    try:
        main()
    except NirvanaError as error:
        sys.exit(str(error))
