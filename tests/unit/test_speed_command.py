"""`nirvana speed`, end to end on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nirvana import cli
from nirvana.evaluation.speed_report import SpeedReport
from nirvana.runs.recipe import Recipe
from nirvana.runs.store import Run, Store

SHORT = ["--prompt", "8", "--new-tokens", "3", "--repeats", "2"]


@pytest.fixture
def pruned(tiny_folder: Path, sample_text: Path) -> Run:
    from nirvana.runs.pipeline import compute_steps

    recipe = (
        Recipe()
        .change("model", name=str(tiny_folder), device="cpu")
        .change("calibration", corpus=str(sample_text), candidates=1, samples=4, length=32)
        .change("evaluation", corpora=(str(sample_text),), window=64, max_tokens=512)
    )
    run = Store().create(recipe)
    compute_steps(run, until="prune")
    return run


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main(["speed", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_runs_result_stays_with_it(capsys: pytest.CaptureFixture[str], pruned: Run) -> None:
    result = ask(capsys, pruned.id, *SHORT, "--quantised", "int8", "--sizes")
    names = ["dense", "pruned", "dense int8", "pruned int8"]
    assert list(result["speed"]["models"]) == names
    timed, weighed = pruned.speed(), pruned.sizes()
    assert timed is not None and SpeedReport.from_json(result["speed"]) == timed
    assert weighed is not None and weighed.to_json() == result["sizes"]
    assert [item.subject for item in weighed.measurements if item.metric == "bytes"] == names


def test_models_by_name_are_compared_with_the_first(capsys: pytest.CaptureFixture[str], tiny_folder: Path) -> None:
    assert cli.main(["speed", str(tiny_folder), *SHORT, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "1.00 (1.00)" in said and "2 turns of each model" in said and "Memory is an estimate" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nosuchmodel"], "nosuchmodel"),
        (["000000000000"], "no such run"),
        (["example", "--prompt", "0"], "prompt must be a whole number from 1 to 32,768"),
        (["a", "b", "--sizes"], "stored run"),
    ],
)
def test_what_cannot_be_timed_is_refused(capsys: pytest.CaptureFixture[str], words: list[str], reason: str) -> None:
    assert cli.main(["speed", *words]) == cli.FAILED
    captured = capsys.readouterr()
    assert reason in captured.err and captured.out == ""


def test_a_run_without_a_pruned_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run = Store().create(Recipe())
    assert cli.main(["speed", run.id]) == cli.FAILED
    assert "no pruned model" in capsys.readouterr().err
