"""Results of zero-shot tasks: accuracies with the outcome of every item, and differences between two models."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nirvana.errors import TaskError
from nirvana.evaluation.results import SUBJECTS, Measurement, Report

Z = 1.959964  # of a 95 % interval under the normal distribution
ACCURACIES = {"acc": "accuracy", "acc_norm": "normalised accuracy"}  # the harness's names and a report's


@dataclass(frozen=True, eq=False)
class TaskAccuracy:
    """One task, e.g. `TaskAccuracy("piqa", {"acc": ..., "acc_norm": ...}, chance=0.5)`.

    Attributes:
        task: name; phenomena are called "minimal-pairs/<phenomenon>", all of them together "minimal-pairs".
        correct: "acc" (the likeliest answer is right) and, where answers differ in length, "acc_norm" (the likeliest by
            character is) -> bool (n,), item by item.
        chance: accuracy of guessing; 0 where there are no choices to guess from.
        protocol: harness and its version, shots, hash of the items, version of the task ...
    """

    task: str
    correct: Mapping[str, np.ndarray]
    chance: float
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(next(iter(self.correct.values())))

    def value(self, metric: str = "acc") -> float:
        """Share of items that are right."""
        return float(self.correct[metric].mean())

    def standard_error(self, metric: str = "acc") -> float:
        """As the harness computes it: sample deviation over the root of n; NaN for a single item."""
        values = self.correct[metric]
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """Accuracies of one model by task, in order; minimal pairs as a whole come before their phenomena."""

    tasks: tuple[TaskAccuracy, ...]

    def find(self, task: str) -> TaskAccuracy:
        """The accuracy of `task`.

        Raises:
            TaskError: it was not measured.
        """
        for item in self.tasks:
            if item.task == task:
                return item
        raise TaskError(f"{task} was not measured.", f"Measured: {', '.join(item.task for item in self.tasks)}.")

    def __str__(self) -> str:
        return "\n".join(
            f"{item.task}: {metric} {item.value(metric):.4f} ± {item.standard_error(metric):.4f} (n = {item.n})"
            for item in self.tasks
            for metric in item.correct
        )


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of a model minus that of a base, by default of the pruned and the dense one, on the same items.

    `low` and `high` bound the 95 % interval; `lost` counts items that only the base answers correctly, `gained` only
    the model.
    """

    value: float
    low: float
    high: float
    lost: int
    gained: int
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def paired_difference(dense: TaskAccuracy, pruned: TaskAccuracy, *, metric: str = "acc") -> PairedDifference:
    """Change of accuracy, with a 95 % interval from the items on which the two models differ.

    Raises:
        TaskError: different items, or no such metric.
    """
    for name in ("items", "harness", "shots"):
        if dense.protocol.get(name) != pruned.protocol.get(name):
            raise TaskError(f"{dense.task} was measured differently: {name}.", "Measure both models the same way.")
    if dense.task != pruned.task or metric not in dense.correct or metric not in pruned.correct:
        raise TaskError(f"{dense.task} and {pruned.task} have no {metric} in common.", "Compare the same task.")
    return paired_interval(dense.correct[metric], pruned.correct[metric])


def paired_interval(dense: np.ndarray, pruned: np.ndarray) -> PairedDifference:
    """The difference of two bool vectors (n,) and its interval by Bonett and Price (2012).

    A normal approximation to the difference of paired proportions, with one more item lost and one more gained, so that
    the interval never has zero width. Source: doi.org/10.3102/1076998611411915.
    """
    if dense.shape != pruned.shape or not len(dense):
        raise TaskError("The two models were measured on different items.", "Measure both on the same ones.")
    lost, gained = int((dense & ~pruned).sum()), int((pruned & ~dense).sum())
    n = len(dense)
    down, up = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    reach = Z * math.sqrt((down + up - (up - down) ** 2) / (n + 2))
    low, high = max(up - down - reach, -1.0), min(up - down + reach, 1.0)
    return PairedDifference((gained - lost) / n, low, high, lost, gained, n)


@dataclass(frozen=True)
class Comparison:
    """One accuracy of one task for each model of a report; `of` has the measurements by subject."""

    task: str
    metric: str
    of: Mapping[str, Measurement]

    @property
    def first(self) -> Measurement:
        """That of the first model."""
        return next(iter(self.of.values()))

    def difference(self, subject: str = "pruned", base: str = "dense") -> PairedDifference | None:
        """The accuracy of a model minus that of a base; None where one is missing, or the items differ."""
        if subject not in self.of or base not in self.of:
            return None
        before, after = (unpack_outcomes(self.of[name].outcomes, self.of[name].n or 0) for name in (base, subject))
        return paired_interval(before, after) if len(before) == len(after) > 0 else None

    def better(self, subject: str = "pruned", base: str = "dense") -> str:
        """The better one of the two where the interval of their difference excludes zero, else ""."""
        found = self.difference(subject, base)
        if found is None or not found.clear:
            return ""
        return base if found.value < 0 else subject


def comparisons(report: Report) -> list[Comparison]:
    """Every accuracy of a report, in its order, paired by task, items and harness."""
    found: dict[tuple[Any, ...], dict[str, Measurement]] = {}
    for item in report.measurements:
        if item.metric in ACCURACIES.values():
            key = (item.protocol.get("task"), item.metric, item.protocol.get("items"), item.protocol.get("harness"))
            found.setdefault(key, {})[item.subject] = item
    return [
        Comparison(str(task), metric, {name: sides[name] for name in SUBJECTS if name in sides})
        for (task, metric, *_), sides in found.items()
    ]


def pairs(subjects: Sequence[str]) -> list[tuple[str, str]]:
    """Each model with each base before it, e.g. ("pruned", "dense"), ("recovered", "dense") ..."""
    return [(subject, base) for place, subject in enumerate(subjects) for base in subjects[:place]]


def measurements(found: ZeroShot, subject: str, protocol: Mapping[str, Any]) -> list[Measurement]:
    """`found` as measurements of a report: one for each metric of each task, with its outcomes."""
    return [
        Measurement(
            ACCURACIES[metric],
            subject,
            item.value(metric),
            None if item.n < 2 else item.standard_error(metric),
            item.n,
            {"task": item.task, **item.protocol, "chance": item.chance, **protocol},
            pack_outcomes(values),
        )
        for item in found.tasks
        for metric, values in item.correct.items()
    ]


def pack_outcomes(values: np.ndarray) -> str:
    """bool (n,) as one bit an item, base64."""
    return base64.b64encode(np.packbits(np.asarray(values, bool)).tobytes()).decode()


def unpack_outcomes(text: str, n: int) -> np.ndarray:
    """The reverse of `pack_outcomes`."""
    bits: np.ndarray = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).astype(bool)[:n]
    return bits
