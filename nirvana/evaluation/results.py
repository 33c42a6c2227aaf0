"""Measurements: numbers with their protocol."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

SUBJECTS = ("dense", "pruned", "recovered")  # models of a run, in order
MOST_PARTS = 4096  # kept of a measurement; more would enlarge a report for little gain in pairing


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood per token over non-overlapping windows (paper, evaluation).

    `standard_error` is that of `value`, from the spread over windows (delta method: value times the standard error of
    the mean negative log-likelihood). `tokens` counts predicted tokens: window - 1 for each window, or the labels of an
    encoder-decoder's `task`.
    """

    value: float
    standard_error: float
    bits_per_byte: float
    tokens: int
    windows: int
    window: int
    corpus: str
    corpus_hash: str
    per_window: np.ndarray = field(repr=False)  # (windows,) mean nats per token
    task: str = ""


@dataclass(frozen=True)
class Measurement:
    """One number of a report.

    `metric` is "perplexity", "bits per byte", "KL divergence", "parameters", "bytes" ...; `subject` is "dense",
    "pruned" or "recovered"; `protocol` is e.g. `{"corpus": "python-docs", "window": 512}`. `n` is the number of
    independent parts that `standard_error` comes from (windows, probe samples, items). For an accuracy, `outcomes`
    holds which items were right, for paired comparisons (see `nirvana.evaluation.zero_shot.results`). Likewise `parts`
    holds the value of each part (see `part_values`): nats per token for a perplexity, otherwise the metric itself.
    """

    metric: str
    subject: str
    value: float
    standard_error: float | None = None
    n: int | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    outcomes: str = ""
    parts: str = ""

    @property
    def part_values(self) -> np.ndarray | None:
        """float32 (n,) values of the parts, or None where they were not kept."""
        values = np.frombuffer(base64.b64decode(self.parts), "<f4")
        return values if len(values) and len(values) == self.n else None


@dataclass(frozen=True)
class Report:
    """All measurements of one run."""

    measurements: tuple[Measurement, ...]

    @property
    def subjects(self) -> tuple[str, ...]:
        """The models of the run that were measured, in the order of SUBJECTS."""
        found = {item.subject for item in self.measurements}
        return tuple(subject for subject in SUBJECTS if subject in found)

    def find(self, metric: str, subject: str, **protocol: Any) -> Measurement | None:
        """The first measurement of `metric` for `subject` whose protocol contains `protocol`."""
        for measurement in self.measurements:
            if measurement.metric == metric and measurement.subject == subject:
                if all(measurement.protocol.get(name) == value for name, value in protocol.items()):
                    return measurement
        return None

    def to_json(self) -> dict[str, Any]:
        rows = [asdict(measurement) for measurement in self.measurements]
        for row in rows:
            for name in ("outcomes", "parts"):
                if not row[name]:
                    del row[name]
        return {"version": 1, "measurements": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        return cls(tuple(Measurement(**measurement) for measurement in data["measurements"]))


def pack_parts(values: np.ndarray) -> str:
    """`Measurement.parts` for (n,) numbers: float32 in base64; empty for one part, or for too many."""
    if not 1 < len(values) <= MOST_PARTS or not np.isfinite(values).all():
        return ""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
