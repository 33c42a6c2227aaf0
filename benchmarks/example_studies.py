"""Studies of the packaged example: a small sweep, a search and a matrix. Their rows are copied, without their runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from nirvana.jobs.execute import execute
from nirvana.progress import Reporter
from nirvana.runs.model_cache import ModelCache
from nirvana.runs.run import Run
from nirvana.studies.matrix import MatrixRequest
from nirvana.studies.matrix_rows import FILE as MATRIX
from nirvana.studies.search import SearchRequest
from nirvana.studies.search_trials import FILE as SEARCH
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import FILE as SWEEP

TEXTS = ("python-docs", "stdlib-code")
REQUESTS = {
    "sweep": Grid(
        criteria=("nirvana", "taylor", "second-order"),
        methods=("shared",),
        sparsities=(0.2, 0.4),
        seeds=(0,),
        compensations=("least_squares",),
        gammas=(4.0,),
    ),
    "matrix": MatrixRequest(corpora=TEXTS, mixture=True),
    "tune": SearchRequest(corpora=TEXTS, minutes=0.0, trials=8),
}


def measure_studies(run: Run, models: ModelCache, reporter: Reporter) -> None:
    """Compute the missing points of each study."""
    for task, request in REQUESTS.items():
        execute(run, task, request.to_json(), reporter, models)


def copy_studies(run: Run, folder: Path) -> None:
    """Copy the journals of `run` to `folder`. Rows of the sweep lose their runs, which are not part of the package."""
    for name in (SWEEP, MATRIX, SEARCH):
        source = run.folder / name
        if source.exists():
            lines = _without_runs(source.read_text(encoding="utf-8").splitlines())
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _without_runs(lines: list[str]) -> Iterator[str]:
    for line in lines:
        record = json.loads(line)
        if "run_id" in record.get("row", {}):
            record["row"]["run_id"] = ""
        yield json.dumps(record, ensure_ascii=False)
