"""Comparison of runs: each against its own dense model, with a winner among equal protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from nirvana.allocation.rules import uses_gamma
from nirvana.evaluation.results import SUBJECTS, Measurement, Report
from nirvana.reporting.contests import HIGHER, better, contest, difference, differing
from nirvana.runs.describe import ALLOCATIONS, COMPENSATIONS, budget, layers, model_name, percent, recovery, short_text
from nirvana.runs.recipe import Recipe
from nirvana.runs.recovery import recovery_terms
from nirvana.runs.run import Run

LOWER = ("perplexity", "bits per byte", "KL divergence")  # over windows of tokens: comparable with one tokenizer only
SPARSITY, SIZES = "sparsity", ("sparsity", "parameters", "bytes")  # exact, without a winner
ORDER = (*SIZES, *LOWER, *HIGHER)
STATES = {"done": "measured", "stale": "stale", "missing": "not measured"}
HEADINGS = ("measured", "winner")  # other columns of the tables
NAMED, QUOTED = 200, 24  # characters of a heading, and of a value in `Column.differs`


@dataclass(frozen=True)
class Column:
    """A run.

    Attributes:
        heading: its name, with differing choices that the name does not mention.
        state: "measured", "stale" (its numbers belong to earlier choices) or "not measured".
        model, weights: name and hash of the dense model.
        sparsity: achieved, or None.
        differs: differences of its protocols from the first run's, e.g. "tokens 32,704 instead of 16,352".
    """

    run_id: str
    name: str
    heading: str
    state: str
    model: str
    weights: str
    criterion: str
    sparsity: float | None
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One number of one run's pruned or recovered model.

    Attributes:
        dense, dense_error: the run's own dense model with the same protocol; None without one.
        ratio: value over dense.
        alike: whether its protocol and tokenizer are those of the first run's number.
        protocol: in words.
    """

    value: float
    standard_error: float | None = None
    dense: float | None = None
    dense_error: float | None = None
    alike: bool = True
    protocol: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.dense if self.dense else None


@dataclass(frozen=True)
class Line:
    """One kind of measurement.

    Attributes:
        metric, text: e.g. "perplexity" on "python-docs", "accuracy" of "piqa".
        subject: the model that was measured, "pruned" or "recovered".
        cells: one for each column, None without a measurement.
        winner: the column that is clearly better than every other of equal protocol.
    """

    metric: str
    text: str
    cells: tuple[Cell | None, ...]
    winner: int | None
    reason: str
    subject: str = "pruned"

    @property
    def lower_is_better(self) -> bool:
        return self.metric not in HIGHER


@dataclass(frozen=True)
class Comparison:
    """`findings`: texts on which another criterion is clearly better than NIRVANA."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    findings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        for line, plain in zip(self.lines, data["lines"], strict=True):
            for cell, values in zip(line.cells, plain["cells"], strict=True):
                if cell is not None:
                    values["ratio"] = cell.ratio
        return {"version": 2, **data}


class _Pair(NamedTuple):
    """A measurement of a run's dense model, and of its pruned or recovered one."""

    dense: Measurement | None = None
    other: Measurement | None = None


class _Key(NamedTuple):
    """Identifies a line."""

    metric: str
    text: str
    subject: str


class _Model(NamedTuple):
    """Hash of a run's dense model, and identity of its recovery."""

    weights: str
    terms: str


_Row = Sequence[_Pair]  # one for each run


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Align the measurements of `runs`, without repetitions.

    Numbers are compared with the first run's where the protocols agree; others are marked as not alike and excluded
    from the contest.
    """
    chosen = list({run.id: run for run in runs}.values())
    found: dict[_Key, list[_Pair]] = {}
    for place, run in enumerate(chosen):
        for key, pair in _pairs(run.report()).items():
            found.setdefault(key, [_Pair()] * len(chosen))[place] = pair
    cards = [run.model() for run in chosen]
    states = [STATES[run.step_state("evaluate")] for run in chosen]
    models = [_Model(card.hash if card else "", recovery_terms(run)) for card, run in zip(cards, chosen, strict=True)]
    texts = list(dict.fromkeys(key.text for key in found))
    keys = sorted(
        found,
        key=lambda key: (
            ORDER.index(key.metric) if key.metric in ORDER else len(ORDER),
            texts.index(key.text),
            SUBJECTS.index(key.subject),
        ),
    )
    different = {key: _different(key, found[key], states, models) for key in keys}
    columns = []
    for place, (run, heading) in enumerate(zip(chosen, headings(chosen), strict=True)):
        card, plan, late = cards[place], run.plan(), ", stale" * (states[place] == "stale")
        columns.append(
            Column(
                run.id,
                run.name,
                heading + late,
                states[place],
                card.name if card else run.recipe.model.name,
                models[place].weights,
                run.recipe.saliency.criterion,
                plan.sparsity if plan else None,
                tuple(dict.fromkeys(phrase for key in keys for phrase in different[key][place])),
            )
        )
    lines = [_line(key, found[key], different[key], columns) for key in keys]
    achieved = tuple(Cell(column.sparsity) if column.sparsity is not None else None for column in columns)
    if lines and any(achieved):
        lines.insert(0, Line(SPARSITY, "", achieved, None, ""))
    rows = {key: found[key] for key in keys if key.metric == "perplexity"}
    return Comparison(tuple(columns), tuple(lines), tuple(_findings(columns, models, rows)))


def _pairs(report: Report | None) -> dict[_Key, _Pair]:
    """Each number of the pruned model, and those of the recovered one that differ from it, with the dense model's."""
    sides: dict[tuple[str, str], dict[str, Measurement]] = {}
    for item in report.measurements if report else ():
        sides.setdefault((item.metric, _text(item)), {})[item.subject] = item
    found = {}
    for (metric, text), of in sides.items():
        for subject in SUBJECTS[1:]:
            if subject == "pruned" or (subject in of and metric not in SIZES):
                found[_Key(metric, text, subject)] = _Pair(of.get("dense"), of.get(subject))
    return found


def headings(runs: Sequence[Run]) -> list[str]:
    """Unique headings: each run's name, with differing choices that it does not mention in brackets."""
    parts = [_parts(run.recipe) for run in runs]
    heads = []
    for run, own in zip(runs, parts, strict=True):
        different = [part for part, others in zip(own, zip(*parts, strict=True), strict=True) if len({*others, ""}) > 2]
        more = ", ".join(part for part in different if part and part.lower() not in run.name.lower())
        heads.append((f"{run.name} ({more})" if more else run.name)[:NAMED])
    taken = set(HEADINGS)
    for index, head in enumerate(heads):
        number = 1
        while heads[index] in taken:
            number += 1
            heads[index] = f"{head} ({number})"
        taken.add(heads[index])
    return heads


def _parts(recipe: Recipe) -> list[str]:
    """Choices that a heading may name, in the order of the steps; "" for none."""
    calibration, allocation, prune, evaluation = recipe.calibration, recipe.allocation, recipe.prune, recipe.evaluation
    return [
        model_name(recipe),
        recipe.model.dtype,
        recipe.saliency.criterion,
        ALLOCATIONS[allocation.method],
        percent(allocation.sparsity),
        f"gamma {allocation.gamma:g}" if uses_gamma(allocation.method, recipe.saliency.criterion) else "",
        f"normalisation {allocation.normalisation:g}",
        "equal widths" if allocation.uniform else "own widths",
        "".join(budget(allocation)) or "of the parameters",
        f"{layers(allocation.protected)} protected" if allocation.protected else "none protected",
        COMPENSATIONS.get(prune.compensation, prune.compensation),
        f"{prune.samples} x {prune.length} for it" if prune.compensation != "none" else "",
        "".join(recovery(recipe.recovery)) or "no recovery",
        " or ".join(map(short_text, calibration.texts)),
        f"{calibration.samples} x {calibration.length}",
        f"seed {calibration.seed}",
        f"{calibration.candidates} candidates",
        f"on {evaluation.max_tokens:,} tokens",
        f"windows of {evaluation.window:,}",
    ]


def _different(key: _Key, row: _Row, states: Sequence[str], models: Sequence[_Model]) -> list[tuple[str, ...]]:
    """For each run the differences of its protocols from those of the first run with current results."""
    there = [place for place, pair in enumerate(row) if pair.other or pair.dense]
    first = min(there, key=lambda place: (states[place] != "measured", place))
    reference = row[first].other or row[first].dense
    found: list[tuple[str, ...]] = []
    for place, pair in enumerate(row):
        item = pair.other or pair.dense
        if item is None or reference is None or key.metric in SIZES:
            found.append(())
            continue
        phrases = [_phrase(name, item.protocol, reference.protocol) for name in differing(item, reference)]
        if key.metric in LOWER and models[place].weights != models[first].weights:
            phrases.append("another dense model")
        if key.subject == "recovered" and models[place].terms != models[first].terms:
            phrases.append("another recovery")
        found.append(tuple(phrases))
    return found


def _phrase(name: str, own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """E.g. "tokens 32,704 instead of 16,352", "another corpus hash"."""
    sides = [f"{side:,}" if isinstance(side, int) else str(side) for side in (own.get(name, ""), other.get(name, ""))]
    words = name.replace("_", " ")
    short = name.endswith("hash") is False and all(0 < len(side) <= QUOTED for side in sides)
    return f"{words} {sides[0]} instead of {sides[1]}" if short else f"another {words}"


def _line(key: _Key, row: _Row, different: Sequence[tuple[str, ...]], columns: Sequence[Column]) -> Line:
    cells: list[Cell | None] = []
    for (dense, item), phrases in zip(row, different, strict=True):
        before, error = (dense.value, dense.standard_error) if dense else (None, None)
        shown = Cell(item.value, item.standard_error, before, error, not phrases, _protocol(item)) if item else None
        cells.append(shown)
    winner, reason = _winner(key.metric, row, cells, columns)
    return Line(key.metric, key.text, tuple(cells), winner, reason, key.subject)


def _winner(metric: str, row: _Row, cells: Sequence[Cell | None], columns: Sequence[Column]) -> tuple[int | None, str]:
    """The winning column, or the reason for none."""
    if metric in SIZES:
        return None, ""
    current = [place for place, cell in enumerate(cells) if cell and columns[place].state == "measured"]
    alike = [place for place in current if (cell := cells[place]) and cell.alike]
    left = " Runs measured differently are excluded." if len(alike) < len(current) else ""
    items = [item for place in alike if (item := row[place].other)]
    if len(items) < 2:
        return None, "Measured differently, so not compared." if left else ""
    found = contest(
        [item.value for item in items], lambda one, other: difference(items[one], items[other]), lower=metric in LOWER
    )
    best = found.ranking[0]
    intervals = [difference(items[best], items[other]) for other in found.ranking[1:]]
    if found.winner is None:
        close = f"{len(found.unclear)} of {len(intervals)} others are not significantly worse"
        close = "no significant difference" if len(intervals) == 1 else close
        return None, f"No clear winner: {'an error is unknown' if None in intervals else close}.{left}"
    paired = all(interval is not None and interval.paired for interval in intervals)
    return alike[best], ("Paired 95 % intervals." if paired else "95 % intervals from the standard errors.") + left


def _findings(columns: Sequence[Column], models: Sequence[_Model], rows: Mapping[_Key, _Row]) -> Iterator[str]:
    """Texts on which another criterion is clearly better than NIRVANA at the same sparsity, before or after the same
    recovery.
    """
    for (_, text, subject), row in rows.items():
        current = [place for place, column in enumerate(columns) if column.state == "measured" and row[place].other]
        for ours in current:
            rivals = [
                (item.value, other)
                for other in current
                if columns[ours].criterion == "nirvana" != columns[other].criterion
                and models[other].weights == models[ours].weights
                and (subject == "pruned" or models[other].terms == models[ours].terms)
                and abs((columns[other].sparsity or 0) - (columns[ours].sparsity or 0)) <= 0.01
                and better(difference(row[other].other, row[ours].other))
                and (item := row[other].other)
            ]
            mine = row[ours].other
            if rivals and mine is not None:
                value, best = min(rivals)
                after = "after recovery " if subject == "recovered" else ""
                yield (
                    f"On {text} {columns[best].heading} is better than {columns[ours].heading}: perplexity {after}"
                    f"{value:,.4g} against {mine.value:,.4g}, and the interval of the difference excludes zero."
                )


def _text(item: Measurement) -> str:
    return str(item.protocol.get("task") if item.metric in HIGHER else item.protocol.get("corpus") or "")


def _protocol(item: Measurement) -> str:
    protocol = item.protocol
    parts = [f"{protocol['tokens']:,} tokens" if protocol.get("tokens") else ""]
    parts.append(f"windows of {protocol['window']:,}" if protocol.get("window") else "")
    parts.append(f"{protocol['samples']:,} probes of {protocol['length']:,}" if protocol.get("samples") else "")
    parts.append(f"{item.n:,} items" if item.metric in HIGHER and item.n else "")
    parts += [str(protocol[name]) for name in ("harness", "dtype") if protocol.get(name)]
    return ", ".join(filter(None, parts))
