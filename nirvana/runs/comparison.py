"""Runs side by side: aligned measurements, and a winner only where the interval excludes zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nirvana.evaluation.intervals import Interval, from_errors, paired_mean
from nirvana.evaluation.results import Measurement
from nirvana.evaluation.zero_shot.results import ACCURACIES, paired_interval, unpack_outcomes
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run

LOWER, HIGHER = ("perplexity", "bits per byte", "KL divergence"), tuple(ACCURACIES.values())
SPARSITY, SIZES = "sparsity", ("sparsity", "parameters", "bytes")  # exact, and no contest
ORDER = (*SIZES, *LOWER, *HIGHER)
IGNORED = ("device", "note", "chance", "harness_seconds")  # of a protocol: what does not make two numbers incomparable
OF_A_MODEL = LOWER  # over windows of tokens, so they compare models of one tokenizer only
STATES = {"done": "measured", "stale": "stale", "missing": "not measured"}
WORDS = {"none": "no compensation", "bias": "bias", "least_squares": "least squares"}
NAMED = 200  # characters of a heading


@dataclass(frozen=True)
class Column:
    """A run. `state` is "measured", "stale" (its numbers are of earlier choices) or "not measured"; `model` the dense
    one's name and `weights` its hash; `sparsity` what was achieved, or None."""

    run_id: str
    name: str
    heading: str
    state: str
    model: str
    weights: str
    criterion: str
    sparsity: float | None


@dataclass(frozen=True)
class Cell:
    """One number, its standard error, and how many times its dense model's it is."""

    value: float
    standard_error: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Line:
    """One thing that was measured.

    Attributes:
        metric, text: e.g. "perplexity" on "python-docs", "accuracy" of "piqa".
        protocol: how, in words; of the first run that has it.
        dense: one cell for each of the comparison's dense models, None where it was not measured.
        cells: one for each column, likewise.
        winner: the column that is better than every other, where all intervals of the differences exclude zero.
        reason: why there is no winner, or how it was found.
    """

    metric: str
    text: str
    protocol: str
    dense: tuple[Cell | None, ...]
    cells: tuple[Cell | None, ...]
    winner: int | None
    reason: str

    @property
    def lower_is_better(self) -> bool:
        return self.metric not in HIGHER


@dataclass(frozen=True)
class Comparison:
    """`models`: name and weights of each dense model among the runs, in order; `findings`: what to know first."""

    models: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    findings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, **asdict(self)}


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Align the measurements of `runs`, the first of them first; a run that comes twice counts once.

    Two cells are compared where their protocols agree: on the windows, probes or items that both read, paired; else by
    their standard errors, which `reason` says.
    """
    chosen = list({run.id: run for run in runs}.values())
    late = [", stale" if run.step_state("evaluate") == "stale" else "" for run in chosen]
    heads = headings([run.recipe for run in chosen], [run.name for run in chosen])
    heads = [head + mark for head, mark in zip(heads, late, strict=True)]
    columns = tuple(_column(run, heading) for run, heading in zip(chosen, heads, strict=True))
    models = tuple(dict.fromkeys((column.model, column.weights) for column in columns if column.weights))
    found: dict[tuple[str, str], list[tuple[Measurement | None, Measurement | None]]] = {}
    for place, run in enumerate(chosen):
        report = run.report()
        for item in report.measurements if report else ():
            if item.subject not in ("dense", "pruned"):
                continue
            row = found.setdefault((item.metric, _text(item)), [(None, None)] * len(chosen))
            dense, pruned = row[place]
            row[place] = (item, pruned) if item.subject == "dense" else (dense, item)
    keys = sorted(found, key=lambda key: ORDER.index(key[0]) if key[0] in ORDER else len(ORDER))
    lines = [_line(*key, found[key], columns, models) for key in keys]
    achieved = tuple(Cell(column.sparsity) if column.sparsity is not None else None for column in columns)
    if lines and any(achieved):
        lines.insert(0, Line(SPARSITY, "", "achieved", (None,) * len(models), achieved, None, ""))
    return Comparison(models, columns, tuple(lines), tuple(_findings(columns, lines, found)))


def headings(recipes: Sequence[Recipe], names: Sequence[str]) -> list[str]:
    """For each run what its recipe has that others do not, e.g. "taylor, 20 %, least squares"; no two alike."""
    parts = [_parts(recipe) for recipe in recipes]
    shown = [[each[i] for i in range(len(each)) if len({other[i] for other in parts} - {""}) > 1] for each in parts]
    heads = [", ".join(filter(None, each)) or names[index] for index, each in enumerate(shown)]
    taken = {"dense", "measured", "winner", "protocol"}  # other columns of the tables
    for index, head in enumerate([head[:NAMED] for head in heads]):
        number, heads[index] = 1, head
        while heads[index] in taken:
            number += 1
            heads[index] = f"{head} ({number})"
        taken.add(heads[index])
    return heads


def _parts(recipe: Recipe) -> list[str]:
    """Parts of a heading, in the order of the steps; "" where there is no choice."""
    calibration, allocation, prune = recipe.calibration, recipe.allocation, recipe.prune
    compensated = prune.compensation != "none"
    return [
        recipe.model.name.rstrip("/").rpartition("/")[2],
        recipe.model.dtype,
        recipe.saliency.criterion,
        "as published" if allocation.method == "published" else "same allocation",
        f"{allocation.sparsity * 100:.3g} %",
        f"gamma {allocation.gamma:g}" if allocation.method == "shared" else "",
        f"normalisation {allocation.normalisation:g}",
        "equal widths" if allocation.uniform else "own widths",
        f"layers {', '.join(map(str, allocation.protected))} protected" if allocation.protected else "none protected",
        WORDS.get(prune.compensation, prune.compensation),
        f"{prune.samples} x {prune.length} for it" if compensated else "",
        " or ".join(name.rpartition("/")[2] for name in calibration.texts),
        f"{calibration.samples} x {calibration.length}",
        f"seed {calibration.seed}",
        f"{calibration.candidates} candidates",
    ]


def _column(run: Run, heading: str) -> Column:
    card, plan = run.model(), run.plan()
    state = STATES[run.step_state("evaluate")]
    return Column(
        run.id,
        run.name,
        heading,
        state,
        card.name if card else run.recipe.model.name,
        card.hash if card else "",
        run.recipe.saliency.criterion,
        plan.sparsity if plan else None,
    )


def _line(
    metric: str,
    text: str,
    row: Sequence[tuple[Measurement | None, Measurement | None]],
    columns: Sequence[Column],
    models: Sequence[tuple[str, str]],
) -> Line:
    dense: list[Cell | None] = []
    for _, weights in models:
        items = [one for (one, _), column in zip(row, columns, strict=True) if column.weights == weights and one]
        dense.append(_cell(items[0], None) if items else None)
    cells = tuple(_cell(pruned, one) if pruned else None for one, pruned in row)
    winner, reason = _winner(metric, [pruned for _, pruned in row], columns)
    first = next((item for pair in row for item in pair if item), None)
    return Line(metric, text, _protocol(first) if first else "", tuple(dense), cells, winner, reason)


def _winner(metric: str, items: Sequence[Measurement | None], columns: Sequence[Column]) -> tuple[int | None, str]:
    """The column that beats all others, or why there is none."""
    there = [index for index, item in enumerate(items) if item is not None and columns[index].state == "measured"]
    if metric in SIZES or len(there) < 2:
        return None, ""
    if metric in OF_A_MODEL and len({columns[index].weights for index in there}) > 1:
        return None, "Of different models, which cut text in other windows, so not compared."
    different = _different([items[index] for index in there])
    if different:
        return None, f"Measured differently ({', '.join(different)}), so not compared."
    sign = -1 if metric in HIGHER else 1
    values = {index: sign * item.value for index in there if (item := items[index]) is not None}
    best = min(values, key=lambda index: (not math.isfinite(values[index]), values[index]))
    intervals = [difference(items[best], items[index]) for index in there if index != best]
    if any(interval is None for interval in intervals):
        return None, "No error is known, so no difference is clear."
    if any(interval is not None and not interval.clear for interval in intervals):
        return None, "No difference is clear: an interval includes zero."
    paired = all(interval is not None and interval.paired for interval in intervals)
    return best, "Paired 95 % intervals." if paired else "95 % intervals from the standard errors, not paired."


def difference(one: Measurement | None, other: Measurement | None) -> Interval | None:
    """One's number less the other's with its 95 % interval; None where nothing is told.

    Paired where both were kept part by part. Of perplexities it is the difference of the losses.
    """
    if one is None or other is None or math.isnan(one.value) or math.isnan(other.value):
        return None
    if math.isinf(one.value) or math.isinf(other.value):  # a model that broke down is worse beyond all doubt
        gap = 0.0 if one.value == other.value else one.value - other.value
        return Interval(gap, gap, gap, False)
    if one.outcomes and other.outcomes and one.n == other.n:
        found = paired_interval(
            unpack_outcomes(other.outcomes, other.n or 0), unpack_outcomes(one.outcomes, one.n or 0)
        )
        return Interval(found.value, found.low, found.high, True)
    parts, others = one.part_values, other.part_values
    if parts is not None and others is not None and len(parts) == len(others) > 1:
        return paired_mean(parts, others)
    if one.standard_error is None or other.standard_error is None:
        return None
    if one.metric == "perplexity" and one.value > 0 and other.value > 0:
        errors = one.standard_error / one.value, other.standard_error / other.value
        return from_errors(math.log(one.value), errors[0], math.log(other.value), errors[1])
    return from_errors(one.value, one.standard_error, other.value, other.standard_error)


def _findings(
    columns: Sequence[Column],
    lines: Sequence[Line],
    found: dict[tuple[str, str], list[tuple[Measurement | None, Measurement | None]]],
) -> list[str]:
    """Where another criterion does clearly better than NIRVANA at the same sparsity, text by text."""
    said = []
    for line in lines:
        if line.metric != "perplexity":
            continue
        row = [pruned for _, pruned in found[line.metric, line.text]]
        for place, column in enumerate(columns):
            rivals = [
                index
                for index, other in enumerate(columns)
                if column.criterion == "nirvana" != other.criterion
                and other.weights == column.weights
                and other.state == column.state == "measured"
                and abs((other.sparsity or 0) - (column.sparsity or 0)) <= 0.01
                and not _different([row[index], row[place]])
                and _is_below(row[index], row[place])
            ]
            if rivals:
                best = min(rivals, key=lambda index: getattr(row[index], "value", math.inf))
                ours, theirs = row[place], row[best]
                assert ours is not None and theirs is not None
                said.append(
                    f"On {line.text} {columns[best].heading} does better than {column.heading}: perplexity "
                    f"{theirs.value:,.4g} against {ours.value:,.4g}, and the interval of the difference excludes zero."
                )
    return said


def _is_below(one: Measurement | None, other: Measurement | None) -> bool:
    interval = difference(one, other)
    return interval is not None and interval.high < 0


def _different(items: Sequence[Measurement | None]) -> list[str]:
    """Names of what the protocols disagree in."""
    protocols = [item.protocol for item in items if item is not None]
    names = dict.fromkeys(name for protocol in protocols for name in protocol if name not in IGNORED)
    return [name.replace("_", " ") for name in names if len({str(protocol.get(name)) for protocol in protocols}) > 1]


def _cell(item: Measurement, dense: Measurement | None) -> Cell:
    ratio = item.value / dense.value if dense is not None and dense.value else None
    return Cell(item.value, item.standard_error, ratio)


def _text(item: Measurement) -> str:
    return str(item.protocol.get("task") if item.metric in HIGHER else item.protocol.get("corpus") or "")


def _protocol(item: Measurement) -> str:
    protocol = item.protocol
    parts = [f"{protocol['tokens']:,} tokens" if protocol.get("tokens") else ""]
    parts.append(f"windows of {protocol['window']:,}" if protocol.get("window") else "")
    parts.append(f"{item.n:,} items" if item.metric in HIGHER and item.n else "")
    parts += [str(protocol[name]) for name in ("harness", "dtype") if protocol.get(name)]
    return ", ".join(filter(None, parts))
