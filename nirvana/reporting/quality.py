"""Measured quality of the criteria, written by `benchmarks.quality`, as docs/results.md and the Method page show it.

Imports neither streamlit nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from nirvana.files import read_json
from nirvana.saliency.criteria import CRITERIA

FILE = Path(__file__).with_name("quality.json")
WORDS = {"none": "", "bias": ", bias", "least_squares": ", least squares"}


class Column(NamedTuple):
    """Setting of a column; the compensation of method "published" is the criterion's own, and empty here."""

    sparsity: float
    method: str
    compensation: str

    @property
    def title(self) -> str:
        """E.g. "20% as published", "20% same, least squares"."""
        shown = "as published" if self.method == "published" else f"same{WORDS[self.compensation]}"
        return f"{self.sparsity:.0%} {shown}"


@dataclass(frozen=True)
class Quality:
    """Perplexities of one model pruned by several criteria, in several settings.

    Attributes:
        dense: perplexity of the dense model on each text.
        cells: criterion, column -> perplexity on each text, the mean over seeds; empty where a seed failed.
        protocol: model, texts, tokens, window, seeds, spread, versions, in words.
    """

    dense: tuple[float, ...]
    cells: dict[tuple[str, Column], tuple[float, ...]]
    protocol: str = ""

    @property
    def columns(self) -> list[Column]:
        return list(dict.fromkeys(column for _, column in self.cells))

    @property
    def criteria(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.cells))

    def best(self, column: Column) -> str:
        """The criterion with the lowest perplexity of a column on the first text; empty where all failed."""
        found = {name: self.cells[name, column] for name in self.criteria if self.cells.get((name, column))}
        return min(found, key=lambda name: found[name][0], default="")

    def ratios(self, name: str, column: Column) -> list[float]:
        """Perplexity over the dense model's on each text; empty where there is none."""
        return [value / dense for value, dense in zip(self.cells.get((name, column), ()), self.dense, strict=False)]

    def markdown(self) -> str:
        """A line a criterion, cells with all texts, the lowest first number of a column in bold."""
        lines = ["| " + " | ".join(["criterion", *(column.title for column in self.columns)]) + " |"]
        lines.append("|---" * (len(self.columns) + 1) + "|")
        dense = " / ".join(f"{value:.1f}" for value in self.dense)
        lines.append(f"| dense | {dense} |" + " |" * (len(self.columns) - 1))
        lowest = {column: self.cells.get((self.best(column), column), (math.nan,))[0] for column in self.columns}
        for name in self.criteria:
            line = [CRITERIA[name].title]
            for column in self.columns:
                values = self.cells[name, column]
                text = in_words(values)
                line.append(f"**{text}**" if values and values[0] == lowest[column] else text)
            lines.append("| " + " | ".join(line) + " |")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        rows = [
            {"criterion": name, **column._asdict(), "perplexity": list(values)}
            for (name, column), values in self.cells.items()
        ]
        return {"protocol": self.protocol, "dense": list(self.dense), "rows": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Quality:
        cells = {
            (str(row["criterion"]), Column(float(row["sparsity"]), row["method"], row["compensation"])): tuple(
                map(float, row["perplexity"])
            )
            for row in data["rows"]
        }
        return cls(tuple(map(float, data["dense"])), cells, str(data["protocol"]))


@lru_cache
def read_quality(name: str = "quality") -> Quality:
    """The published measurement of that name: "quality", or "quality-offline" with built-in calibration text."""
    return Quality.from_json(read_json(FILE)[name])


def in_words(values: Sequence[float]) -> str:
    """Perplexities of the texts in turn, e.g. "55.8 / 111.8"; "out of reach" without."""
    return " / ".join(map(_number, values)) if values else "out of reach"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 1_000 else f"{value:,.0f}" if value < 1e5 else f"{value:.0e}"
