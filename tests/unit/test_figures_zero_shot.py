"""Figures of zero-shot tasks: rows, errors and verdicts are those of the items."""

from __future__ import annotations

import numpy as np
import pytest

from nirvana.evaluation.results import Report
from nirvana.evaluation.zero_shot.results import TaskAccuracy, ZeroShot, comparisons, measurements
from nirvana.reporting.figures import zero_shot
from nirvana.reporting.figures.chart import Chart

ALL = "minimal-pairs"


def outcomes(right: int, n: int = 200, shift: int = 0) -> np.ndarray:
    """`right` of `n` items, from the first on; `shift` lets others be the right ones."""
    return np.roll(np.arange(n) < right, shift)


def make_report(*sides: str) -> Report:
    """The pruned model is clearly worse on one task, clearly better on another, and alike on the rest."""
    right = {
        ALL: (160, 140, 0),
        f"{ALL}/anaphor-gender": (180, 120, 0),
        f"{ALL}/filler-gap": (120, 160, 0),
        f"{ALL}/pronoun-case": (150, 148, 20),
        "own.jsonl": (110, 108, 60),
        "<b>odd</b>.jsonl": (100, 100, 0),
    }
    found = []
    for subject in sides:
        tasks = []
        for name, (dense, pruned, shift) in right.items():
            correct = {"acc": outcomes(dense) if subject == "dense" else outcomes(pruned, shift=shift)}
            if name == "own.jsonl":
                correct["acc_norm"] = ~correct["acc"]
            tasks.append(TaskAccuracy(name, correct, 0.5, {"harness": "lm-eval 0.0", "shots": 0, "items": "ab"}))
        found += measurements(ZeroShot(tuple(tasks)), subject, {"note": "", "device": "cpu"})
    return Report(tuple(found))


@pytest.fixture
def rows() -> tuple[list[Chart], list[Chart]]:
    """Charts of the tasks and of the phenomena."""
    tasks, phenomena = zero_shot.split_phenomena(comparisons(make_report("dense", "pruned")))
    assert [item.task for item in tasks] == [ALL, "own.jsonl", "own.jsonl", "<b>odd</b>.jsonl"]
    assert [item.task for item in phenomena] == [
        f"{ALL}/{key}" for key in ("anaphor-gender", "filler-gap", "pronoun-case")
    ]
    charts = [
        [chart for chart in (zero_shot.accuracies(part, what), zero_shot.differences(part, what)) if chart is not None]
        for part, what in ((tasks, "task"), (phenomena, "phenomenon"))
    ]
    assert [len(part) for part in charts] == [2, 2]
    return charts[0], charts[1]


def test_every_chart_asks_answers_and_tabulates(rows: tuple[list[Chart], list[Chart]]) -> None:
    for chart in (chart for part in rows for chart in part):
        assert chart.title.endswith("?") and chart.takeaway.endswith(".") and len(chart.table) >= 3
        assert {"items", "dense standard error", "pruned - dense", "low", "high", "harness"} <= set(chart.table)
        for trace in chart.figure.to_plotly_json()["data"]:
            assert all(trace[part]["dtype"] in {"f4", "i4", "i2", "i1", "u1"} for part in ("x", "y"))
        assert all("<" not in label for label in chart.figure.layout.yaxis.ticktext)


def test_points_are_the_accuracies_with_two_standard_errors(rows: tuple[list[Chart], list[Chart]]) -> None:
    guessing, dense, pruned = rows[1][0].figure.data
    np.testing.assert_allclose(guessing.x, 0.5)
    np.testing.assert_allclose(dense.x, [0.9, 0.6, 0.75], rtol=1e-6)
    np.testing.assert_allclose(pruned.x, [0.6, 0.8, 0.74], rtol=1e-6)
    assert dense.error_x.array[0] == pytest.approx(2 * np.sqrt(0.9 * 0.1 / 199), rel=1e-5)
    assert "75.0%, the pruned one 71.3%" in rows[1][0].takeaway


def test_only_what_leaves_zero_out_is_called_different(rows: tuple[list[Chart], list[Chart]]) -> None:
    chart = rows[1][1]
    assert chart.takeaway == (
        "The pruned model is clearly worse on Reflexive agrees in gender and clearly better on "
        "A question word and its gap; not significant: 1 other difference."
    )
    assert list(chart.table["better"]) == ["dense", "pruned", ""]
    assert list(chart.table["lost"]) == [60, 0, 20] and list(chart.table["gained"]) == [0, 40, 18]
    clear, chance = chart.figure.data
    assert list(clear.y) == [0, 1] and list(chance.y) == [2]
    np.testing.assert_allclose(clear.x, [-0.3, 0.2], rtol=1e-6)


def test_a_model_alone_has_accuracies_and_no_differences() -> None:
    found = comparisons(make_report("dense"))
    chart = zero_shot.accuracies(found, "task")
    assert chart is not None and chart.takeaway == "Only one of the models was measured."
    assert zero_shot.differences(found, "task") is None and zero_shot.accuracies([], "task") is None


def test_one_task_is_told_with_its_errors() -> None:
    (item,) = (item for item in comparisons(make_report("dense", "pruned")) if item.task == ALL)
    chart, change = zero_shot.accuracies([item], "task"), zero_shot.differences([item], "task")
    assert chart is not None and change is not None
    assert chart.takeaway == (
        "The dense model is right on 80.0% ± 2.8% of 200 items, the pruned one on 70.0% ± 3.2% of 200 items: "
        "Minimal pairs."
    )
    assert change.takeaway == "The pruned model is clearly worse on Minimal pairs."
