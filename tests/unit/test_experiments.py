"""Experiments: their checks on made-up rows, the recorded rows, the picture, and the subcommand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nirvana import cli
from nirvana.errors import RunError
from nirvana.runs.validation import check_recipe
from nirvana.studies.sweep_grid import Point
from nirvana.studies.sweep_rows import Row, Value
from nirvana.teaching.experiments import experiment as module
from nirvana.teaching.experiments.experiment import PERPLEXITY, Experiment, is_clearly_above, nats
from nirvana.teaching.experiments.recorded import FOLDER, Recorded, read_recorded, record_file, write_recorded
from nirvana.teaching.experiments.registry import EXPERIMENTS, find_experiment
from nirvana.teaching.picture import picture

ALL = [(each, model) for each in EXPERIMENTS.values() for model in each.models]
NAMES = [f"{each.name}-{model}" for each, model in ALL]


def rows_of(experiment: Experiment, kl: Callable[[Point], float], pruned: float | None = None) -> list[Row]:
    """Rows with these KLs and errors of a hundredth; perplexity is 10 * exp(KL)."""

    def row(point: Point) -> Row:
        value = kl(point)
        values = {
            "KL divergence": Value(value, 0.01 * value, None, None, pruned, pruned and 0.01 * pruned),
            PERPLEXITY: Value(10 * math.exp(value), 1.0, 10.0, 1.0),
        }
        sizes = dict.fromkeys(("parameters", "dense parameters", "bytes", "dense bytes"), 1000.0)
        return Row(point, values=values, sparsity=point.sparsity, sizes=sizes)

    return [row(point) for point in experiment.grid.points()]


SEEN: dict[str, tuple[Callable[[Point], float], float | None]] = {
    "magnitude": (lambda point: {"nirvana": 0.1, "random": 0.5, "magnitude": 1.0}[point.criterion], None),
    "gamma": (lambda point: 1.0 if point.gamma <= 1 else 0.1, None),
    "lottery": (lambda point: 0.1 + 0.01 * point.seed, None),
    "attention": (lambda point: 1.0 if point.gamma == 0 else 0.2, None),
    "healing": (lambda point: 0.4, 1.0),
}
UNSEEN: dict[str, list[tuple[Callable[[Point], float], float | None]]] = {
    "magnitude": [
        (lambda point: {"nirvana": 0.1, "random": 0.5, "magnitude": 0.4}[point.criterion], None),
        (lambda point: {"nirvana": 2.0, "random": 0.5, "magnitude": 1.0}[point.criterion], None),
        (lambda point: {"nirvana": 0.1, "random": 0.99, "magnitude": 1.0}[point.criterion], None),  # within noise
    ],
    "gamma": [(lambda point: 0.1, None), (lambda point: 0.15 if point.gamma <= 1 else 0.1, None)],
    "lottery": [(lambda point: 0.1 + 0.0005 * point.seed, None)],
    "attention": [
        (lambda point: 1.0 if point.gamma < 2 else 0.2, None),
        (lambda point: 0.1 if point.gamma else 0.3, None),
    ],
    "healing": [(lambda point: 0.8, 1.0), (lambda point: 1.2, 1.0)],
}


def test_each_check_tells_the_observation_from_its_absence() -> None:
    assert set(SEEN) == set(UNSEEN) == set(EXPERIMENTS)
    for name, experiment in EXPERIMENTS.items():
        seen = experiment.judge(rows_of(experiment, *SEEN[name]))
        assert seen is not None and seen.appeared, name
        for absent in UNSEEN[name]:
            found = experiment.judge(rows_of(experiment, *absent))
            assert found is not None and not found.appeared and any(map(str.isdigit, found.sentence)), name


def test_findings_name_the_measured_numbers() -> None:
    magnitude = EXPERIMENTS["magnitude"]
    finding = magnitude.judge(rows_of(magnitude, *SEEN["magnitude"]))
    assert finding is not None
    assert "At 20 % KL is 1 nats by magnitude, 0.5 with random units (2 times), and 0.1 by NIRVANA." in finding.sentence
    healing = EXPERIMENTS["healing"]
    found = healing.judge(rows_of(healing, *SEEN["healing"]))
    assert found is not None and "1 to 0.4 at 60 % (60% less)" in found.sentence


def test_there_is_no_finding_before_the_last_point_and_none_of_failed_points() -> None:
    gamma = EXPERIMENTS["gamma"]
    rows = rows_of(gamma, *SEEN["gamma"])
    assert gamma.judge(rows[:-1]) is None
    foreign = replace(rows[0], point=rows[0].point._replace(sparsity=0.9))
    assert gamma.judge([foreign, *rows]) == gamma.judge(rows)
    failed = gamma.judge([replace(rows[0], values={}, failure="Out of reach."), *rows[1:]])
    assert failed is not None and not failed.appeared and "Out of reach." in failed.sentence


def test_a_difference_is_clear_from_two_standard_errors() -> None:
    assert is_clearly_above(Value(1.3, 0.1, None, None), Value(1.0, 0.1, None, None))  # 0.3 > 2 * 0.1414
    assert not is_clearly_above(Value(1.28, 0.1, None, None), Value(1.0, 0.1, None, None))
    assert [nats(value) for value in (1.2345, 0.0764, 0.00296, 0.0)] == [
        "1.23",
        "0.0764",
        "0.00296",
        "less than 0.0001",
    ]


@pytest.mark.parametrize(("experiment", "model"), ALL, ids=NAMES)
def test_recorded_rows_are_current_and_show_the_observation(experiment: Experiment, model: str) -> None:
    check_recipe(experiment.recipe(model))
    found = read_recorded(experiment, model)
    assert found is not None, "run python -m benchmarks.experiments"
    assert (found.recipe, found.grid) == (experiment.recipe(model), experiment.grid)
    finding = experiment.judge(found.rows)
    assert finding is not None and finding.appeared, finding
    assert {"device", "dtype", "versions"} <= set(found.protocol)


def test_recorded_rows_are_small_and_those_of_the_experiments_only() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in NAMES}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 200_000


def test_recorded_rows_are_read_back(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["gamma"]
    rows = tuple(rows_of(experiment, *SEEN["gamma"]))
    made = Recorded(experiment.recipe(), experiment.grid, rows, {"device": "cpu"})
    assert read_recorded(experiment, "other", tmp_path) is None
    write_recorded(experiment, "tiny-llama", made, tmp_path)
    assert read_recorded(experiment, "tiny-llama", tmp_path) == made
    record_file(experiment, "tiny-llama", tmp_path).write_text("{}")
    with pytest.raises(RunError, match="is damaged"):
        read_recorded(experiment, "tiny-llama", tmp_path)


def values_of(rows: Sequence[Row]) -> list[float]:
    return [row.values["KL divergence"].value for row in rows]


def test_the_picture_has_every_point_in_its_place() -> None:
    gamma = EXPERIMENTS["gamma"]
    rows = rows_of(gamma, *SEEN["gamma"])
    assert picture(gamma, [], None) is None
    chart = picture(gamma, rows, gamma.judge(rows))
    assert chart is not None and chart.title == gamma.title
    (line,) = chart.figure.data
    assert list(line.x) == ["0.5", "1", "2", "3.36", "6", "20", "∞"]
    assert np.allclose(line.y, values_of(rows)) and np.allclose(line.error_y.array, 0.01 * np.array(line.y))
    assert chart.figure.layout.yaxis.type == "log"
    assert list(chart.table["KL divergence"]) == values_of(rows)
    part = picture(gamma, rows[:2], None)
    assert part is not None and part.takeaway == "2 points are measured, 5 are left."


def test_the_picture_of_a_recovery_has_both_models() -> None:
    healing = EXPERIMENTS["healing"]
    chart = picture(healing, rows_of(healing, *SEEN["healing"]), None)
    assert chart is not None
    assert {line.name: list(line.y) for line in chart.figure.data} == {
        "pruned": [1.0, 1.0],
        "recovered": pytest.approx([0.4, 0.4]),
    }


def test_an_unknown_experiment_is_refused() -> None:
    with pytest.raises(RunError, match="no experiment 'nothing'"):
        find_experiment("nothing")


def test_the_subcommand_measures_and_its_exit_code_is_the_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    small = {
        "calibration": {"samples": 8, "length": 256, "probe_samples": 4, "probe_length": 128},
        "evaluation": {"corpora": ("python-docs",), "window": 512, "max_tokens": 2048},
    }
    monkeypatch.setattr(module, "SMALL", small)
    assert cli.main(["experiment", "attention", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["appeared"] and len(found["rows"]) == 4 and "attention alone" in found["finding"]
    monkeypatch.setattr("nirvana.teaching.experiments.attention.TWICE", 1e9)
    assert cli.main(["experiment", "attention"]) == 1
    shown = capsys.readouterr().out
    assert "does not appear" in shown and "Attention only breaks everything" in shown
    assert cli.main(["experiment", "gamma", "--model", "smollm2-135m"]) == 2
