"""The published measurements of the criteria: one file, which the documents and the Method page show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nirvana.reporting.quality import FILE, Column, Quality, in_words, read_quality
from nirvana.saliency.criteria import CRITERIA

ROOT = Path(__file__).parents[2]
README_COLUMNS = [
    Column(0.2, "published", ""),
    Column(0.2, "shared", "none"),
    Column(0.2, "shared", "least_squares"),
    Column(0.4, "published", ""),
    Column(0.4, "shared", "least_squares"),
]


@pytest.mark.parametrize("name", ["quality", "quality-offline"])
def test_the_results_show_the_file(name: str) -> None:
    document = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", document, re.DOTALL)
    assert found is not None
    quality = read_quality(name)
    assert found[1] == f"{quality.markdown()}\n\n{quality.protocol}"


def test_the_readme_shows_the_file() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    quality, titles = read_quality(), {each.title: name for name, each in CRITERIA.items()}
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    shown = {titles[cells[0]]: cells[1:] for cells in rows if cells[0] in titles}
    assert len(shown) == 5
    for name, cells in shown.items():
        assert cells == [in_words(quality.cells[name, column]) for column in README_COLUMNS]


def test_the_lowest_of_a_column_is_best_and_ratios_are_over_dense() -> None:
    column, other = Column(0.2, "shared", "none"), Column(0.2, "published", "")
    cells = {("random", column): (30.0, 12.0), ("nirvana", column): (20.0, 40.0), ("random", other): ()}
    made = Quality((10.0, 4.0), cells)
    assert made.best(column) == "nirvana"
    assert made.best(other) == ""
    assert made.ratios("nirvana", column) == [2.0, 10.0]
    assert made.ratios("random", other) == []
    assert Quality.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_the_file_has_what_it_must() -> None:
    for name in json.loads(FILE.read_text(encoding="utf-8")):
        quality = read_quality(name)
        assert set(quality.criteria) <= set(CRITERIA)
        assert all(len(values) == len(quality.dense) for values in quality.cells.values())
