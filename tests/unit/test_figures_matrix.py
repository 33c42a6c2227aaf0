"""The matrix in figures, words and code: every claim is checked against the numbers."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nirvana as nv
from nirvana.cli import build_parser
from nirvana.evaluation.results import Measurement, pack_parts
from nirvana.options import given
from nirvana.reporting.figures.matrix import kl_by_text, matrix_table, ratio_by_text
from nirvana.reporting.figures.names import wrapped_label
from nirvana.reporting.html.report import report_html
from nirvana.reporting.matrix import (
    MIXTURE,
    command_line,
    describe,
    in_words,
    is_current,
    matrix_seconds,
    python_code,
    rows_to_do,
)
from nirvana.runs.options import apply_options
from nirvana.runs.pace import FORWARD
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Store
from nirvana.studies.matrix import MatrixRequest
from nirvana.studies.matrix_rows import CalibrationMatrix, MatrixRow, used
from tests.journals import write_matrix

ASKED = MatrixRequest(corpora=("a.txt", "b.txt"))


def cell(level: float, spread: float, windows: int = 20) -> Measurement:
    parts = level + spread * np.cos(np.arange(windows))
    return Measurement("perplexity", "pruned", float(np.exp(parts.mean())), None, windows, parts=pack_parts(parts))


def make(excess: float, *, noise: float = 0.01, windows: int = 20, names: tuple[str, ...] = ("a.txt", "b.txt")) -> Any:
    """Dense loss 3, pruning costs 0.5 on the text itself and `excess` more on the other; the mixture half of that."""
    rows = []
    for number, name in enumerate([*names, "a + b"]):
        extra = [0.0 if name == text else excess / (2 if name == "a + b" else 1) for text in names]
        losses = tuple(cell(3.5 + more, 0.2 + (noise * number if more else 0), windows) for more in extra)
        kl = tuple(cell(0.4 + more, 0.1, windows) for more in extra)
        kl = tuple(Measurement("KL divergence", "pruned", 0.4 + m, 0.1, windows, parts=k.parts)
                   for m, k in zip(extra, kl, strict=True))  # fmt: skip
        rows.append(MatrixRow(name, 0, 0.199, kl, losses, "hash", 2.0))
    protocol = {"recipe": used(Recipe()), "note": "4-bit origin"}
    return CalibrationMatrix(names, tuple(cell(3.0, 0.2, windows) for _ in names), tuple(rows), protocol)


@pytest.mark.parametrize(
    ("excess", "noise", "verdict"),
    [
        (0.2, 0.01, "the calibration text matters"),
        (0.02, 0.001, "but small, where pruning itself costs 64.9 %"),
        (0.004, 0.05, "not significant: the choice transfers"),
        (0.02, 0.5, "too little data to decide whether the choice transfers"),
        (-0.1, 0.01, "not significant: the choice transfers"),
    ],
)
def test_the_verdict_follows_from_the_numbers(excess: float, noise: float, verdict: str) -> None:
    matrix = make(excess, noise=noise)
    found = matrix.transfer()
    assert found is not None and found.off.value == pytest.approx(excess, abs=noise)
    words = in_words(matrix)
    assert verdict in words
    assert ("lower than calibrated on the evaluated text" if excess < 0 else "higher than") in words
    assert f"Calibrated on {MIXTURE}" in words
    assert "calibration-sampling variance" in words
    again = tuple(replace(row, seed=1) for row in matrix.rows)
    assert "calibration-sampling variance" not in in_words(replace(matrix, rows=(*matrix.rows, *again)))


def test_one_window_says_nothing_of_noise() -> None:
    assert "the significance is unknown" in in_words(make(0.2, windows=1))
    half = make(0.2)
    partial = CalibrationMatrix(half.texts, half.dense, half.rows[:1], half.protocol)
    assert in_words(partial) == "This needs the rows of two texts."
    chart = ratio_by_text(partial, str)
    assert len(chart.table) == 2 and len(chart.figure.layout.shapes) == 1
    assert "two texts" in kl_by_text(partial, str).takeaway


def test_cells_are_annotated_and_the_diagonal_is_framed() -> None:
    matrix = make(0.2, names=("<b>a</b>.txt", "b.txt"))
    for chart in (ratio_by_text(matrix, str), kl_by_text(matrix, str)):
        heat, text = chart.figure.data
        assert heat.z.shape == (3, 2) and heat.z[0, 0] == heat.z[1, 1] == 0
        assert heat.z[1, 0] > 0 and heat.zmax == -heat.zmin >= heat.z.max()
        frames = [(shape.x0 + 0.48, shape.y0 + 0.46) for shape in chart.figure.layout.shapes]
        assert frames == [(0, 0), (1, 1)]
        assert text.customdata.dtype == np.float32 and len(text.text) == 6 and "±" in text.text[0]
        assert "<b>" not in str(chart.figure.layout.xaxis.ticktext)
        assert chart.title.endswith("?") and chart.takeaway.endswith(".")
    assert text.customdata[0] == pytest.approx(0.4 + 0.1 * np.cos(np.arange(20)).mean(), rel=1e-4)
    assert "On 2 of 2 texts" in chart.takeaway and "0.2 nats higher" in chart.takeaway


def test_the_table_has_every_cell() -> None:
    matrix = make(0.2)
    table = matrix_table(matrix, str)
    assert list(table["calibrated on"]) == ["a.txt", "a.txt", "b.txt", "b.txt", MIXTURE, MIXTURE]
    assert table["over dense"][0] == pytest.approx(np.exp(0.5), rel=1e-5)
    assert table["over dense"][1] == pytest.approx(table["perplexity"][1] / table["dense perplexity"][1])
    assert set(table["sets"]) == {1} and set(table["sparsity"]) == {0.199}


def test_labels_are_wrapped_and_escaped() -> None:
    assert wrapped_label("Python standard library source") == "Python standard<br>library source"
    assert wrapped_label("<i>") == "&lt;i&gt;"
    assert wrapped_label("one two three four five", 5, 2).endswith("…")


def test_what_is_left_to_do(own_home: Path) -> None:
    matrix, recipe = make(0.2), Recipe()
    assert is_current(matrix, recipe, ASKED) and rows_to_do(matrix, recipe, ASKED) == 0
    assert rows_to_do(matrix, recipe, ASKED.with_values(seeds=3)) == 6
    assert rows_to_do(matrix, recipe, ASKED.with_values(mixture=False)) == 0
    assert rows_to_do(matrix, recipe.change("allocation", sparsity=0.3), ASKED) == 3
    assert rows_to_do(None, recipe, ASKED) == 3
    assert matrix_seconds(matrix, recipe, ASKED.with_values(seeds=3), {}) == 6 * 2.0
    assert matrix_seconds(None, recipe, ASKED, {}) is None
    scored, measured = 3.3 * 32 * 128, 4 * 2 * (16_384 + 128 * 64)  # for each of 3 models, and by the dense one as well
    assert matrix_seconds(None, recipe, ASKED, {FORWARD: 0.5}) == pytest.approx(0.5 * (3 * scored + measured))
    assert "nirvana at 20 %, gamma 3.36" in describe(matrix.protocol, [0]) and "4-bit" in describe(matrix.protocol, [0])


def test_the_matrix_as_code() -> None:
    recipe = (
        Recipe()
        .change("model", name="./it's", dtype="float32")
        .change("calibration", samples=8, alternatives=("x",), candidates=7)
        .change("allocation", gamma=float("inf"), protected=(0, 2))
        .change("prune", compensation="least_squares")
    )
    source = python_code(recipe, ASKED)
    code = compile(source, "shown", "exec")
    assert all(name in nv.__all__ for name in code.co_names if f"nv.{name}" in source)
    before, _, after = source.partition("lm = nv.load_model")
    scope: dict[str, Any] = {}
    exec(before, scope)
    assert used(scope["base"]) == used(recipe.change("model", name="smollm2-135m", dtype="auto"))
    assert "mixture=True, seeds=1, base=base" in after
    words = shlex.split(command_line(recipe, ASKED.with_values(mixture=False, seeds=2)))
    parsed = build_parser().parse_args(words[1:])
    assert MatrixRequest(**given(MatrixRequest, parsed)) == ASKED.with_values(mixture=False, seeds=2)
    assert used(apply_options(Recipe(), parsed)) == used(recipe)


def test_the_report_has_the_matrix_without_folders(own_home: Path) -> None:
    run = Store().create(Recipe())
    assert "Calibration text against evaluation text" not in report_html(run)
    write_matrix(run.folder, make(0.2, names=("/secret/a.txt", "b.txt")))
    html = report_html(run)
    assert "Calibration text against evaluation text" in html and "the calibration text matters" in html
    assert "a.txt" in html and "/secret" not in html


def test_no_folders_in_words() -> None:
    assert str(Path("/secret")) not in in_words(make(0.2, names=("/secret/a.txt", "b.txt")))
