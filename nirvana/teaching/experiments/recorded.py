"""Recorded rows of the experiments, measured by `benchmarks.experiments`: shown until a class has its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nirvana.errors import RunError
from nirvana.files import read_json, strict, well_formed, write_json
from nirvana.runs.recipe import Recipe
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row
from nirvana.teaching.experiments.experiment import Experiment

FOLDER = Path(__file__).with_name("recorded")


@dataclass(frozen=True)
class Recorded:
    """Rows of an experiment with one model.

    Attributes:
        recipe: with which they were measured.
        grid: likewise.
        rows: one a point.
        protocol: device, dtype, versions and seconds.
    """

    recipe: Recipe
    grid: Grid
    rows: Sequence[Row]
    protocol: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        rows = [{**row.to_json(), "run_id": ""} for row in self.rows]
        recipe, grid = self.recipe.to_json(), self.grid.to_json()
        return {"version": 1, "recipe": recipe, "grid": grid, "protocol": dict(self.protocol), "rows": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recorded:
        rows = tuple(map(Row.from_json, data["rows"]))
        return cls(Recipe.from_json(data["recipe"]), Grid.from_json(data["grid"]), rows, data["protocol"])


def record_file(experiment: Experiment, model: str, folder: Path = FOLDER) -> Path:
    return folder / f"{experiment.name}-{model}.json"


def read_recorded(experiment: Experiment, model: str, folder: Path = FOLDER) -> Recorded | None:
    """The recorded rows; None where there are none.

    Raises:
        RunError: the file is damaged.
    """
    path = record_file(experiment, model, folder)
    if not path.is_file():
        return None
    with well_formed(f"{path.name} is damaged", RunError, "Install the package again."):
        return Recorded.from_json(read_json(path))


def write_recorded(experiment: Experiment, model: str, found: Recorded, folder: Path = FOLDER) -> Path:
    """Write the recorded rows; returns the file."""
    path = record_file(experiment, model, folder)
    write_json(path, strict(found.to_json()))
    return path
