"""Calibration text against evaluation text: cost of calibration on another text (paper: task-agnostic)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nirvana.errors import RunError
from nirvana.evaluation.results import Measurement, Report
from nirvana.runs.recipe import Recipe
from nirvana.studies.journal import Journal

FILE = "matrix.jsonl"
DENSE = ("", 0)  # point of the dense model
USED = {  # fields that a matrix depends on, by section
    "model": ("name", "device", "dtype"),
    "calibration": ("samples", "length", "seed", "probe_samples", "probe_length", "probe_seed", "task"),
    "saliency": ("criterion",),
    "allocation": ("sparsity", "gamma", "multiple_of", "protected", "uniform", "method", "normalisation"),
    "prune": ("compensation", "samples", "length", "seed"),
    "evaluation": ("window", "max_tokens"),
}


class Estimate(NamedTuple):
    """A number and its standard error over windows or probe samples, NaN where there is only one."""

    value: float
    error: float


@dataclass(frozen=True)
class MatrixRow:
    """One model, pruned with a calibration set from one text, measured on every text.

    Attributes:
        calibration: name of the text, or of a mixture.
        seed: of the calibration set.
        sparsity: achieved.
        kl: KL( dense || pruned ) on the probe split of each text, in the order of the matrix.
        perplexity: on the evaluation split of each text, likewise.
        calibration_hash: of the calibration set.
        failure: the error of a row that failed, which has no measurements; else empty.
    """

    calibration: str
    seed: int
    sparsity: float
    kl: tuple[Measurement, ...]
    perplexity: tuple[Measurement, ...]
    calibration_hash: str = ""
    seconds: float = 0.0
    failure: str = ""

    @property
    def point(self) -> tuple[str, int]:
        return self.calibration, self.seed

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"kl": _to_json(self.kl), "perplexity": _to_json(self.perplexity)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MatrixRow:
        return cls(**{**data, "kl": _from_json(data["kl"]), "perplexity": _from_json(data["perplexity"])})


@dataclass(frozen=True)
class Transfer:
    """Cost of calibration on another text than the evaluated one, over all cells off the diagonal.

    Losses are in nats per token, compared window by window with the model calibrated on the evaluated text.

    Attributes:
        off: mean excess off the diagonal, with its standard error over the windows.
        own: mean excess of the diagonal over the dense model, the cost of pruning.
        worst: calibration text, evaluation text, and the excess there.
        mixed: mean excess of the mixture, None without one.
    """

    off: Estimate
    own: Estimate
    worst: tuple[str, str, Estimate]
    mixed: Estimate | None


@dataclass(frozen=True)
class CalibrationMatrix:
    """KL and perplexity by calibration text (rows) and evaluation text (columns), averaged over calibration seeds.

    Attributes:
        texts: names of the texts, the columns; each is also a row.
        dense: perplexity of the dense model on each text.
        rows: one a calibration text and seed, in order of completion.
        protocol: the choices behind it: "recipe" (sections of a `Recipe`), "hashes" of the texts, weights, dtype.
        failed: rows that failed.
    """

    texts: tuple[str, ...]
    dense: tuple[Measurement, ...]
    rows: tuple[MatrixRow, ...] = ()
    protocol: dict[str, Any] = field(default_factory=dict)
    failed: tuple[MatrixRow, ...] = ()

    @property
    def calibrations(self) -> list[str]:
        """Calibration texts: those of the columns in their order, then mixtures."""
        found = dict.fromkeys(row.calibration for row in self.rows)
        return [*(name for name in self.texts if name in found), *(name for name in found if name not in self.texts)]

    def kl(self, calibration: str, text: str) -> Estimate:
        """Nats per token.

        Raises:
            KeyError: there is no such row or column.
        """
        return _mean(self._parts("kl", calibration, text))

    def perplexity(self, calibration: str, text: str) -> Estimate:
        """exp of the mean loss; raises as `kl`."""
        return _exp(_mean(self._parts("perplexity", calibration, text)))

    def ratio(self, calibration: str, text: str) -> Estimate:
        """Perplexity over the dense model's, window by window; raises as `kl`."""
        return _exp(_mean(self._parts("perplexity", calibration, text) - _losses(self.dense[self.texts.index(text)])))

    def seeds(self, calibration: str) -> list[int]:
        """Seeds of the rows of one calibration text."""
        return [row.seed for row in self.rows if row.calibration == calibration]

    def transfer(self) -> Transfer | None:
        """The cost of calibration on other texts; None before two texts have rows."""
        done = [name for name in self.texts if name in self.calibrations]
        if len(done) < 2:
            return None
        own = {text: self._parts("perplexity", text, text) for text in done}
        excess = {
            (name, text): self._parts("perplexity", name, text) - own[text]
            for name in self.calibrations
            for text in done
            if name != text
        }
        off = [np.mean([excess[name, text] for name in done if name != text], axis=0) for text in done]
        cost = [own[text] - _losses(self.dense[self.texts.index(text)]) for text in done]
        cells = {cell: _mean(parts) for cell, parts in excess.items() if cell[0] in done}
        worst = max(cells, key=lambda cell: cells[cell].value)
        mixtures = [name for name in self.calibrations if name not in self.texts]
        mixed = _over_texts([excess[mixtures[0], text] for text in done]) if mixtures else None
        return Transfer(_over_texts(off), _over_texts(cost), (*worst, cells[worst]), mixed)

    def _parts(self, metric: str, calibration: str, text: str) -> np.ndarray:
        """float64 (n,): KL of each probe sample or loss of each window, the mean over seeds."""
        rows = [row for row in self.rows if row.calibration == calibration]
        if not rows or text not in self.texts:
            raise KeyError((calibration, text))
        cells = [getattr(row, metric)[self.texts.index(text)] for row in rows]
        values = [_losses(cell) if metric == "perplexity" else _values(cell, cell.value) for cell in cells]
        mean: np.ndarray = np.mean(values, axis=0)
        return mean

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "texts": list(self.texts),
            "dense": _to_json(self.dense),
            "protocol": self.protocol,
            "rows": [row.to_json() for row in self.rows],
            "failed": [row.to_json() for row in self.failed],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CalibrationMatrix:
        rows, failed = (tuple(map(MatrixRow.from_json, data.get(name, ()))) for name in ("rows", "failed"))
        return cls(tuple(data["texts"]), _from_json(data["dense"]), rows, dict(data["protocol"]), failed)


def read_matrix(folder: Path) -> CalibrationMatrix | None:
    """The finished rows of a run folder's last matrix; None before the dense model was measured."""
    settings, rows = Journal(folder / FILE).last(MatrixRow.from_json)
    if settings is None:
        return None
    try:
        return assemble(settings, rows)
    except (RunError, KeyError, TypeError):
        return None


def assemble(settings: Mapping[str, Any], rows: Sequence[MatrixRow]) -> CalibrationMatrix:
    """The matrix of finished rows, the newest of each point.

    Raises:
        RunError: the dense model was not measured.
    """
    newest = {row.point: row for row in rows}
    dense = newest.pop(DENSE, None)
    if dense is None or dense.failure:
        reason = dense.failure if dense else "It has no row yet."
        raise RunError(f"The dense model was not measured. {reason}", "Measure the matrix again.")
    good = tuple(row for row in newest.values() if not row.failure)
    failed = tuple(row for row in newest.values() if row.failure)
    return CalibrationMatrix(tuple(settings["texts"]), dense.perplexity, good, dict(settings["protocol"]), failed)


def used(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Choices of a recipe that a matrix depends on, as JSON values."""
    data = recipe.to_json()
    found = {section: {name: data[section][name] for name in names} for section, names in USED.items()}
    later = ("budget", "budget_phase", "budget_batch", "budget_length")  # left out of a recipe at their defaults
    found["allocation"] |= {name: data["allocation"][name] for name in later if name in data["allocation"]}
    for values in found.values():
        values.update({name: list(value) for name, value in values.items() if isinstance(value, tuple)})
    return found


def _values(cell: Measurement, whole: float) -> np.ndarray:
    """float64 (n,) values of the parts, or the total as the only one."""
    parts = cell.part_values
    return np.array([whole]) if parts is None else parts.astype(np.float64)


def _losses(cell: Measurement) -> np.ndarray:
    return _values(cell, math.log(cell.value) if cell.value > 0 else math.nan)


def _mean(values: np.ndarray) -> Estimate:
    count = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return Estimate(float(values.mean()), error)


def _over_texts(parts: Sequence[np.ndarray]) -> Estimate:
    """The mean of each text's mean; windows of different texts are independent."""
    found = [_mean(each) for each in parts]
    error = math.sqrt(sum(each.error**2 for each in found)) / len(found)
    return Estimate(float(np.mean([each.value for each in found])), error)


def _exp(loss: Estimate) -> Estimate:
    value = float(np.exp(np.float64(loss.value)))
    return Estimate(value, value * loss.error)


def _to_json(cells: Sequence[Measurement]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Report(tuple(cells)).to_json()["measurements"]
    return rows


def _from_json(rows: Sequence[Mapping[str, Any]]) -> tuple[Measurement, ...]:
    return Report.from_json({"measurements": rows}).measurements
