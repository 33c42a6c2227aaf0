"""The rows of `benchmarks.quality` as a Markdown table, with its protocol."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from nirvana.reporting.quality import WORDS, Column, Quality
from nirvana.saliency.criteria import CRITERIA

Row = dict[str, Any]


def table(rows: Sequence[Row]) -> str:
    """A line a criterion; for each sparsity as published, then with the same allocation and each compensation.

    Cells are perplexities of the texts in turn, each the mean over the seeds; the lowest of a column is bold.
    """
    return summary(rows).markdown()


def summary(rows: Sequence[Row], words: str = "") -> Quality:
    """The table as data, with its protocol in `words`."""
    dense = next(row for row in rows if row["point"] is None)
    pruned = [row for row in rows if row["point"] is not None]
    columns = _columns(pruned)
    names = list(dict.fromkeys(row["point"]["criterion"] for row in pruned))
    cells = {(name, column): tuple(_values(pruned, name, column)) for name in names for column in columns}
    return Quality(tuple(value for value, _, _ in dense["perplexity"].values()), cells, words)


def protocol(rows: Sequence[Row], common: Row) -> str:
    """The protocol of the rows, and the spread over seeds."""
    dates = sorted({row["date"] for row in rows})
    pruned = [row for row in rows if row["point"] is not None and "perplexity" in row]
    seeds = sorted({row["point"]["seed"] for row in pruned})
    missed = max(abs(row["sparsity"] - row["point"]["sparsity"]) for row in pruned)
    dense = next(row for row in rows if row["point"] is None)
    texts = " / ".join(dense["perplexity"])
    tokens = " / ".join(f"{count:,}" for _, _, count in dense["perplexity"].values())
    versions = ", ".join(f"{name} {version}" for name, version in common["versions"].items())
    date = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    length = common["length"]
    return (
        f"Perplexity of {texts} ({tokens} tokens, windows of {common['window']}, {common['evaluate_in']}), mean of "
        f"seeds {', '.join(map(str, seeds))}; the lowest first number of a column is bold. {common['model']}, one "
        f"shot, no training. Scored on {common['samples']} x {length} tokens of {common['calibrate']}; same "
        f"allocation: gamma {common['gamma']:g}; least squares from {common['statistics_samples']} x {length} tokens. "
        f"Achieved sparsities are within {missed:.2%} of those named. Over the seeds the first number's standard "
        f"deviation is {_spread(pruned)}. {date}, {versions}."
    )


def between_marks(document: str, mark: str, text: str) -> str:
    """`document` with `text` between `<!-- mark -->` and `<!-- /mark -->`.

    Raises:
        SystemExit: the marks are missing.
    """
    pattern = re.compile(rf"(<!-- {re.escape(mark)} -->\n).*?(<!-- /{re.escape(mark)} -->)", re.DOTALL)
    if not pattern.search(document):
        raise SystemExit(f"The file has no marks <!-- {mark} --> and <!-- /{mark} -->.")
    return pattern.sub(lambda found: f"{found[1]}{text}{found[2]}", document)


def _columns(rows: Sequence[Row]) -> list[Column]:
    columns = []
    for sparsity in sorted({row["point"]["sparsity"] for row in rows}):
        columns.append(Column(sparsity, "published", ""))
        shared = dict.fromkeys(row["point"]["compensation"] for row in rows if row["point"]["method"] == "shared")
        columns += [Column(sparsity, "shared", compensation) for compensation in sorted(shared, key=list(WORDS).index)]
    return columns


def _values(rows: Sequence[Row], name: str, column: Column) -> list[float]:
    """Mean over seeds for each text; empty where a seed failed."""
    sparsity, method, compensation = column
    criterion = CRITERIA[name]
    if method == "shared" and criterion.published == "shared" and compensation == criterion.compensation:
        method = "published"  # the same point, measured once
    wanted = {"criterion": name, "sparsity": sparsity, "method": method}
    if method == "shared":
        wanted["compensation"] = compensation
    found = [row for row in rows if wanted.items() <= row["point"].items()]
    if not found or any("failure" in row for row in found):
        return []
    return [mean(row["perplexity"][text][0] for row in found) for text in found[0]["perplexity"]]


def _spread(rows: Sequence[Row]) -> str:
    """Standard deviation over seeds as a share of the mean: the median and the largest of those under 1,000."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        key = str({name: value for name, value in row["point"].items() if name != "seed"})
        groups.setdefault(key, []).append(next(iter(row["perplexity"].values()))[0])
    shares = sorted(stdev(each) / mean(each) for each in groups.values() if len(each) > 1 and mean(each) < 1_000)
    return f"{shares[len(shares) // 2]:.1%} in the middle and {shares[-1]:.1%} at most" if shares else "not known"
