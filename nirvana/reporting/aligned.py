"""Measurements of a report aligned by metric and text: dense, pruned and recovered side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import pandas as pd

from nirvana.evaluation.results import SUBJECTS, Measurement, Report
from nirvana.evaluation.speed_report import SpeedReport
from nirvana.reporting.text import megabytes, millions, short

# Numbers are comparable only where these fields agree.
SAME_TEXT = ("corpus", "corpus_hash", "split", "window", "tokens", "task")
FIRST_COLUMNS = (
    "metric",
    "model",
    "corpus",
    "value",
    "standard error",
    "n",
    "window",
    "tokens",
    "note",
    "device",
    "dtype",
)
BARS = 2.0  # standard errors
SIZES = {"parameters": ("Parameters", millions), "bytes": ("Size of the weights", megabytes)}
SPEEDS = {"prefill": "Speed, reading a prompt", "decode": "Speed, writing"}


@dataclass(frozen=True)
class Aligned:
    """One metric on one text; `of` has its measurements by subject: "dense", "pruned", "recovered", or some of them."""

    metric: str
    corpus: str
    of: Mapping[str, Measurement]

    @property
    def last(self) -> Measurement:
        """That of the last model."""
        return list(self.of.values())[-1]

    @property
    def key(self) -> tuple[object, ...]:
        """Identifies the text and how it was read."""
        return text_key(self.last)

    def ratio(self, subject: str = "pruned") -> float:
        """A model's value over the dense one; NaN where one is missing or not finite."""
        dense, other = self.of.get("dense"), self.of.get(subject)
        if dense is None or other is None or not dense.value:
            return math.nan
        ratio = other.value / dense.value
        return ratio if math.isfinite(ratio) else math.nan

    def relative_error(self, subject: str = "pruned") -> float:
        """Standard error of the ratio over the ratio, as if both were measured independently; NaN if unknown."""
        return math.hypot(_relative(self.of.get("dense")), _relative(self.of.get(subject)))

    def interval(self, subject: str = "pruned") -> tuple[float, float]:
        """The ratio minus and plus two standard errors, on a log scale, where the error of the mean loss is
        symmetric.
        """
        ratio, reach = self.ratio(subject), math.exp(min(BARS * self.relative_error(subject), 50.0))
        return ratio / reach, ratio * reach


def align(report: Report, metric: str) -> list[Aligned]:
    """Measurements of `metric` on the same tokens, in the report's order, the subjects in that of SUBJECTS."""
    found: dict[tuple[object, ...], dict[str, Measurement]] = {}
    for item in report.measurements:
        if item.metric == metric:
            found.setdefault(text_key(item), {}).setdefault(item.subject, item)
    return [
        Aligned(metric, str(key[0] or ""), {name: sides[name] for name in SUBJECTS if name in sides})
        for key, sides in found.items()
    ]


def text_key(measurement: Measurement) -> tuple[object, ...]:
    """The fields of a protocol that numbers must share to be aligned."""
    return tuple(measurement.protocol.get(name) for name in SAME_TEXT)


def comparison_table(report: Report, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """One row for each metric and text: each model's value, their standard errors, the ratios, and the protocol."""
    names = metrics or list(dict.fromkeys(item.metric for item in report.measurements))
    subjects = [name for name in SUBJECTS if name in report.subjects or name != "recovered"]
    rows = []
    for line in (line for metric in names for line in align(report, metric)):
        row: dict[str, object] = {"metric": line.metric, "corpus": line.corpus}
        for name in subjects:
            item = line.of.get(name)
            row |= {name: item.value if item else math.nan, f"{name} standard error": _error(item)}
        row |= {f"{name} / dense": line.ratio(name) for name in subjects[1:]}
        rows.append(row | {"n": line.last.n, "measured": describe_protocol(line.last)})
    return pd.DataFrame(rows)


def side_by_side(report: Report, speed: SpeedReport | None = None) -> pd.DataFrame:
    """Perplexities, KL, whole zero-shot tasks, sizes and speeds as text: a row each, a column for each model."""
    rows: list[dict[str, str]] = []
    for metric in ("perplexity", "KL divergence", "accuracy", "parameters", "bytes"):
        for line in align(report, metric):
            task = str(line.last.protocol.get("task") or "")
            if metric == "accuracy" and "/" in task:  # a part of a task
                continue
            where = PurePath(task).name if metric == "accuracy" else line.corpus
            title = SIZES[metric][0] if metric in SIZES else metric[0].upper() + metric[1:]
            name = f"{title}, {where}"
            row = {"measured": name.removesuffix(", ")}
            rows.append(row | {each: _short(item, line.ratio(each)) for each, item in line.of.items()})
    rows += _speeds(speed, report.subjects) if speed is not None else []
    return pd.DataFrame(rows, columns=["measured", *report.subjects]).fillna("")


def _speeds(speed: SpeedReport, subjects: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of the speed; training changes no shape, so a recovered model is as fast as the pruned one."""
    for metric, title in SPEEDS.items():
        row = {"measured": title}
        for name, model in speed.models.items():
            ratio = "" if name == "dense" else f" ({speed.ratio(name, metric).median:.2f} x)"
            row[name] = f"{short(getattr(model, metric).median)} tokens/s{ratio}"
        if "recovered" in subjects and "recovered" not in row:
            row["recovered"] = "as pruned"
        yield row


def _short(item: Measurement, ratio: float) -> str:
    """E.g. "22.5 (1.33 x)", "61.3 %", "0.472 nats"; the ratio to the dense model only for perplexities."""
    if item.metric == "accuracy":
        return f"{100 * item.value:.1f} %"
    if item.metric == "KL divergence":
        return f"{short(item.value)} nats"
    if item.metric in SIZES:
        return SIZES[item.metric][1](item.value)
    times = f" ({ratio:.2f} x)" if item.subject != "dense" and ratio == ratio else ""
    return f"{short(item.value)}{times}"


def report_table(report: Report) -> pd.DataFrame:
    """A row for each measurement, with its complete protocol."""
    rows = [
        {
            "metric": item.metric,
            "model": item.subject,
            "value": item.value,
            "standard error": _error(item),
            "n": item.n,
            **{name.replace("_", " "): value for name, value in item.protocol.items()},
        }
        for item in report.measurements
    ]
    table = pd.DataFrame(rows)
    first = [name for name in FIRST_COLUMNS if name in table]
    return table[[*first, *(name for name in table if name not in first)]]


def describe_protocol(measurement: Measurement) -> str:
    """A protocol in words, e.g. "python-docs 3f2a91c0, 16,352 tokens in windows of 512, cpu float32"."""
    protocol = measurement.protocol
    text = " ".join(
        part for part in (str(protocol.get("corpus", "")), str(protocol.get("corpus_hash", ""))[:8]) if part
    )
    parts = [text] if text else []
    tokens = protocol.get("tokens")
    if tokens is not None:
        window, length = protocol.get("window"), protocol.get("length")
        parts.append(f"{tokens:,} tokens")
        parts[-1] += f" in windows of {window:,}" if window else f" in samples of {length:,}" if length else ""
    parts.append(str(protocol.get("task") or ""))
    parts.append(" ".join(str(protocol[name]) for name in ("device", "dtype") if protocol.get(name)))
    parts.append(str(protocol.get("note") or ""))
    return ", ".join(part for part in parts if part)


def _relative(measurement: Measurement | None) -> float:
    if measurement is None or measurement.standard_error is None or not measurement.value:
        return math.nan
    return measurement.standard_error / measurement.value


def _error(measurement: Measurement | None) -> float:
    if measurement is None or measurement.standard_error is None:
        return math.nan
    return measurement.standard_error
