"""Journals of studies, as the studies write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nirvana.plan import PruningPlan
from nirvana.runs.run import Run
from nirvana.studies import allocation_steps, kernel_rows, matrix_rows, search_trials, sweep_rows
from nirvana.studies.allocation_steps import SearchStep
from nirvana.studies.journal import Header, Journal, as_read_back
from nirvana.studies.kernel_rows import KernelStudy
from nirvana.studies.matrix_rows import DENSE, CalibrationMatrix, MatrixRow
from nirvana.studies.search_trials import Trial
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row


def write_sweep(run: Run, rows: Sequence[Row] = (), grid: Grid | None = None) -> None:
    journal, header = Journal(run.folder / sweep_rows.FILE), Header((grid or Grid()).to_json())
    if grid is not None:
        journal.begin(Header(as_read_back(header.request)))
    for row in rows:
        journal.append(header.key, row.to_json())


def write_search(folder: Path, settings: dict[str, Any], trials: Sequence[Trial] = ()) -> None:
    journal, header = Journal(folder / search_trials.FILE), Header({}, as_read_back(settings))
    journal.begin(header)
    for trial in trials:
        journal.append(header.key, trial.to_json())


def write_matrix(folder: Path, matrix: CalibrationMatrix) -> None:
    journal = Journal(folder / matrix_rows.FILE)
    header = Header({}, as_read_back({"texts": matrix.texts, "protocol": matrix.protocol}))
    journal.begin(header)
    for row in (MatrixRow(*DENSE, 0.0, (), matrix.dense), *matrix.rows, *matrix.failed):
        journal.append(header.key, row.to_json())


def write_allocation_search(run: Run, plan: PruningPlan, steps: Sequence[SearchStep]) -> None:
    settings = {
        "start": {site.key: len(kept) for site, kept in plan.items()},
        "layout": plan.layout.to_json(),
        "compensation": {"method": "least_squares"},
        "probe": {"samples": 4, "length": 512},
        "seed": 0,
        "dtype": "torch.float32",
        "device": "cpu",
    }
    journal, header = Journal(run.folder / allocation_steps.FILE), Header({}, as_read_back(settings))
    journal.begin(header)
    for step in steps:
        journal.append(header.key, step.to_json())


def write_kernel(folder: Path, study: KernelStudy) -> None:
    journal, header = Journal(folder / kernel_rows.FILE), Header({}, as_read_back(study.settings))
    journal.begin(header)
    for row in (*study.rows, *study.failed):
        journal.append(header.key, row.to_json())
