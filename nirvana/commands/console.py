"""Output of the command line: progress on stderr; tables or JSON on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nirvana.evaluation.results import Measurement, Report
from nirvana.evaluation.zero_shot.results import ACCURACIES, PairedDifference, comparisons, pairs
from nirvana.files import strict
from nirvana.progress import Progress

PIPED_WIDTH = 140  # columns, without a terminal
BETWEEN_LINES = 10.0  # seconds, likewise


class Bar:
    """Progress bar on stderr: step, stage, fraction, elapsed and remaining time.

    Without a terminal it prints a line when another step begins and at each whole percent of a known number of steps,
    else at most one line in 10 seconds.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Display

        self._console = Console(stderr=True)
        self._display = Display(
            TextColumn("{task.fields[step]}", markup=False, style="bold"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False, style="dim"),
            console=self._console,
            transient=True,
        )
        self._task = self._display.add_task("", total=None, step="")
        self._label, self._place, self._printed = "", ("", 0), 0.0  # of the last step, and the time of the last line

    @contextmanager
    def shown(self) -> Iterator[Bar]:
        if not self._console.is_terminal:
            yield self
            return
        with self._display:
            yield self

    def step(self, step: str, number: int = 1, steps: int = 1) -> None:
        """A step begins."""
        counted = f"[{number}/{steps}] {step}" if steps > 1 else step
        self._label = counted if steps else f"[{number}] {step}"
        if self._console.is_terminal:
            self._display.reset(self._task, total=None, step=self._label, description="")
            return
        place = step, 100 * number // steps if steps else 0
        self._print(self._label, due=place != self._place)
        self._place = place

    def row(self, row: object) -> None:
        """A finished row of a study; ignored here."""

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        if self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def progress(self, progress: Progress) -> None:
        """Callback for long calls."""
        self._display.update(
            self._task, description=progress.stage, completed=progress.done, total=progress.total or None
        )
        if not self._console.is_terminal and progress.total:
            self._print(f"{self._label}, {100 * progress.done // progress.total} %".removeprefix(", "))

    def _print(self, line: str, *, due: bool = False) -> None:
        """Print a line where it is due, or the last one is 10 seconds old."""
        now = time.monotonic()
        if due or now - self._printed >= BETWEEN_LINES:
            self._printed = now
            print(line, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Strict JSON on stdout: NaN becomes null, infinity "inf"."""
    print(json.dumps(strict(value), indent=1, ensure_ascii=False, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table on stdout; columns after the first are aligned right where they hold numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        numbers = all(row[index][:1].isdigit() or row[index] in ("", "-") for row in rows)
        table.add_column(column, justify="right" if numbers and index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)


def print_report(report: Report, title: str) -> None:
    """Print the measurements of each model with standard errors and protocols."""
    keys: dict[tuple[str, str], dict[str, Measurement]] = {}
    for item in report.measurements:
        if item.metric not in ACCURACIES.values():
            keys.setdefault((item.metric, str(item.protocol.get("corpus", ""))), {})[item.subject] = item
    rows, subjects = [], list(dict.fromkeys(["dense", "pruned", *report.subjects]))
    for (metric, corpus), found in keys.items():
        label = f"{metric}, {corpus}" if corpus else metric
        values = [_value(found[subject]) if subject in found else "-" for subject in subjects]
        rows.append([label, *values, _protocol(next(iter(found.values())))])
    print_table(title, ["", *subjects, "protocol"], rows)
    _print_accuracies(report)
    for line in _footnotes(report):
        print(line)


def _print_accuracies(report: Report) -> None:
    """Print zero-shot accuracies of each model and the paired differences."""
    found, subjects = comparisons(report), list(dict.fromkeys(["dense", "pruned", *report.subjects]))
    if not found:
        return
    rows, changed, sides = [], [], pairs(subjects)
    for each in found:
        label = each.task if each.metric == "accuracy" else f"{each.task}, normalised"
        rows.append([label, *(_value(each.of[subject]) if subject in each.of else "-" for subject in subjects)])
        changed.append([_change(each.difference(*side)) for side in sides])
    headings = [f"{subject} - {base} [95 %]" for subject, base in sides]
    items = [f"{each.first.n:,}" for each in found]
    title = f"Zero-shot, {found[0].first.protocol['harness']}"
    if len(sides) == 1:
        whole = zip(rows, changed, found, items, strict=True)
        shown = [[*row, *change, each.better(), n] for row, change, each, n in whole]
        print_table(title, ["accuracy", *subjects, *headings, "better", "items"], shown)
        return
    print_table(title, ["accuracy", *subjects, "items"], [[*row, n] for row, n in zip(rows, items, strict=True)])
    shown = [
        [row[0], *(text + " *" * bool(each.better(*side)) for text, side in zip(change, sides, strict=True))]
        for row, change, each in zip(rows, changed, found, strict=True)
    ]
    print_table("Differences of accuracy on the same items; *: the interval excludes zero", ["", *headings], shown)


def _change(change: PairedDifference | None) -> str:
    if change is None:
        return "-"
    return f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"


def _value(item: Measurement) -> str:
    if item.metric == "parameters":
        return f"{item.value:,.0f}"
    if item.metric == "bytes":
        return f"{item.value / 1e6:,.1f} MB"
    text = f"{item.value:,.4f}" if item.value < 100 else f"{item.value:,.1f}"
    error = item.standard_error
    return text if error is None else f"{text} ± {error:,.4f}" if item.value < 100 else f"{text} ± {error:,.1f}"


def _protocol(item: Measurement) -> str:
    protocol = item.protocol
    task = f", {protocol['task']}" if protocol.get("task") else ""
    if "window" in protocol:
        return f"{protocol['tokens']:,} tokens in {item.n} windows of {protocol['window']}{task}"
    if "samples" in protocol:
        return f"nats per token, {protocol['samples']} probes of {protocol['length']} tokens{task}"
    return "tied weights counted once" if item.metric == "parameters" else ""


def _footnotes(report: Report) -> list[str]:
    """Shared protocol: precision, texts and notes of the model."""
    protocols = [item.protocol for item in report.measurements]
    places = {f"{p['dtype']} on {p['device']}" for p in protocols if "dtype" in p}
    texts = {f"{p['corpus']} ({p['split']} split, {str(p['corpus_hash'])[:8]})" for p in protocols if "split" in p}
    notes = {str(p["note"]) for p in protocols if p.get("note")}
    lines = [f"Measured in {', '.join(sorted(places))}; ± is one standard error."] if places else []
    lines += [f"Texts: {', '.join(sorted(texts))}."] if texts else []
    return lines + [f"All measurements are of a model with {note}." for note in sorted(notes)]
