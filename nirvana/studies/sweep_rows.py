"""Rows of a sweep and their journal. Does not import torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nirvana.errors import NirvanaError, RunError
from nirvana.evaluation.results import Measurement, Report
from nirvana.evaluation.speed_report import SpeedReport
from nirvana.evaluation.zero_shot.results import ACCURACIES
from nirvana.evaluation.zero_shot.tasks import MINIMAL_PAIRS
from nirvana.files import read_json
from nirvana.runs.run import Run
from nirvana.studies.journal import Journal
from nirvana.studies.sweep_grid import Grid, Point

FILE, FIRST_GRID = "sweep.jsonl", "sweep.json"
ACCURACY = ACCURACIES["acc"]
log = logging.getLogger(__name__)


class Value(NamedTuple):
    """A measured number of the point's last model, its standard error over text or items (None where unknown), and the
    dense model's; of a recovered point also the pruned model's.
    """

    value: float
    error: float | None
    dense: float | None
    dense_error: float | None
    pruned: float | None = None
    pruned_error: float | None = None


class Pace(NamedTuple):
    """Tokens a second of the pruned model, and its speed relative to the dense one, turn by turn."""

    tokens: float
    dense: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One finished point.

    Attributes:
        run_id: of the point's run; empty where it failed before there was one.
        fingerprint: of that run's recipe.
        weights: hash of the dense model; empty where it failed.
        failure: error of a failed point with its hint; else empty.
        sparsity: achieved share of the recipe's budget.
        sizes: "parameters" and "bytes" of the pruned model, and "dense parameters", "dense bytes".
        values: measurements by name, e.g. "perplexity, novels", "KL divergence", "accuracy, minimal-pairs".
        speed: "prefill" and "decode", if requested.
        finished: seconds since 1970.
    """

    point: Point
    run_id: str = ""
    fingerprint: str = ""
    weights: str = ""
    failure: str = ""
    seconds: float = 0.0
    sparsity: float = float("nan")
    sizes: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, Value] = field(default_factory=dict)
    speed: Mapping[str, Pace] = field(default_factory=dict)
    finished: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "point": self.point.to_json(),
            "values": {name: list(value) for name, value in self.values.items()},
            "speed": {name: list(pace) for name, pace in self.speed.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        values = {name: Value(*value) for name, value in data["values"].items()}
        speed = {name: Pace(*pace) for name, pace in data["speed"].items()}
        return cls(**{**data, "point": Point.from_json(data["point"]), "values": values, "speed": speed})


def row_of(point: Point, run: Run, speed: SpeedReport | None = None) -> Row:
    """The row of a point whose run is done.

    Raises:
        RunError: a result of the run is damaged.
    """
    card, plan, summary, report = run.model(), run.plan(), run.pruned(), run.report()
    if card is None or plan is None or summary is None or report is None:
        raise RunError("A result of this point is damaged.", "Continue the sweep: it is computed again.")
    sizes = {"parameters": summary.parameters["pruned"], "dense parameters": summary.parameters["dense"]}
    sizes |= {"bytes": summary.weight_bytes["pruned"], "dense bytes": summary.weight_bytes["dense"]}
    return Row(
        point,
        run.id,
        run.recipe.fingerprint("evaluate"),
        card.hash,
        sparsity=plan.achieved,
        sizes=sizes,
        values=_values(report),
        speed={name: _pace(speed, name) for name in ("prefill", "decode")} if speed else {},
        finished=time.time(),
    )


def _values(report: Report) -> dict[str, Value]:
    """Perplexities, KL and accuracies of whole tasks, under their names in charts and tables."""
    found: dict[str, dict[str, Measurement]] = {}
    for item in report.measurements:
        if item.metric == "perplexity":
            name = f"perplexity, {Path(str(item.protocol.get('corpus'))).name}"
        elif item.metric == "KL divergence":
            name = item.metric
        elif item.metric == ACCURACY and not str(item.protocol.get("task")).startswith(f"{MINIMAL_PAIRS}/"):
            name = f"accuracy, {Path(str(item.protocol.get('task'))).name}"
        else:
            continue
        found.setdefault(name, {}).setdefault(item.subject, item)
    values, last = {}, report.subjects[-1]
    for name, sides in found.items():
        if last != "dense" and last in sides:
            dense, pruned = _number(sides.get("dense")), _number(sides.get("pruned") if last == "recovered" else None)
            values[name] = Value(sides[last].value, sides[last].standard_error, *dense, *pruned)
    return values


def _number(item: Measurement | None) -> tuple[float | None, float | None]:
    return (item.value, item.standard_error) if item else (None, None)


def _pace(report: SpeedReport, metric: str) -> Pace:
    ratio = report.ratio("pruned", metric)
    own, dense = (getattr(report.models[name], metric).median for name in ("pruned", "dense"))
    return Pace(own, dense, ratio.median, ratio.low, ratio.high)


def read_rows(run: Run) -> list[Row]:
    """The newest row of each point, in order of first completion.

    Rows of deleted runs, and of another recipe or other weights than the newest row, are excluded.
    """
    found: dict[Point, Row] = {}
    weights = ""
    for data in Journal(run.folder / FILE).rows():
        try:
            row = Row.from_json(data)
            current = row.fingerprint == row.point.recipe(run.recipe).fingerprint("evaluate")
        except (ValueError, KeyError, TypeError, NirvanaError):
            continue  # written by another version
        there = not row.run_id or (run.folder.parent / row.run_id).is_dir()
        if current and there:
            weights = row.weights or weights
            found[row.point] = row
    return [row for row in found.values() if row.weights in ("", weights)]


def read_grid(run: Run) -> Grid | None:
    """The last request; None where no sweep was started. Runs of earlier versions store it in a separate file."""
    header = Journal(run.folder / FILE).latest()
    try:
        return Grid.from_json(header.request if header else read_json(run.folder / FIRST_GRID))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, NirvanaError) as error:
        log.warning("The grid of run %s cannot be read: %s", run.id, error)
        return None
