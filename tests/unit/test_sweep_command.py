"""`nirvana sweep` on a tiny random model: its table, JSON and CSV, and how it is continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nirvana import cli
from nirvana.runs.store import Store
from nirvana.studies.sweep_rows import read_rows


@pytest.fixture
def small(tiny_folder: Path, sample_text: Path) -> list[str]:
    words = ["--model", str(tiny_folder), "--device", "cpu", "--corpus", str(sample_text), "--samples", "4"]
    words += ["--length", "32", "--probe-samples", "6", "--probe-length", "16", "--multiple-of", "4"]
    words += ["--evaluate-on", str(sample_text), "--window", "64", "--max-tokens", "1024"]
    return [*words, "--criterion", "nirvana", "--criterion", "magnitude", "--sparsity", "0.3"]


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli.main(["sweep", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["sweep", *words]) == cli.FAILED
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


def test_it_prints_both_columns_with_dense_first(
    capsys: pytest.CaptureFixture[str], small: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "points.csv"
    assert cli.main(["sweep", *small, "--seed", "0", "--seed", "1", "--csv", str(file), "--name", "Mine"]) == 0
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines() if line.strip()]
    start = next(index for index, line in enumerate(lines) if line[:2] == ["criterion", "sparsity"])
    assert lines[start][2:] == ["as", "published", "same", "allocation"]
    assert [line[0] for line in lines[start + 2 : start + 5]] == ["dense", "nirvana", "magnitude"]
    assert "Perplexity on sample.txt" in captured.out and "KL divergence" in captured.out
    assert "2 seeds" in captured.out and "one standard deviation" in captured.out
    table = pd.read_csv(file)
    assert len(table) == 6 and set(table["allocation"]) == {"as published", "same allocation"}
    (base,) = Store().runs()
    assert base.name == "Mine" and f"--run {base.id}" in captured.err and len(read_rows(base)) == 6
    assert set(table["run"]) == {row.run_id for row in read_rows(base)}


def test_it_is_continued_and_extended(capsys: pytest.CaptureFixture[str], small: list[str]) -> None:
    first = ask(capsys, *small, "--seed", "0", "--method", "shared")
    assert len(first["rows"]) == 2 and first["grid"]["methods"] == ["shared"]
    again = ask(capsys, "--run", first["run"])
    assert again == first
    more = ask(capsys, "--run", first["run"], "--seed", "0", "--seed", "1", "--gamma", "2", "--gamma", "inf")
    assert len(more["rows"]) == 2 * 4 and more["run"] == first["run"]
    assert more["grid"]["gammas"] == [2.0, "inf"] and more["grid"]["sparsities"] == [0.3]
    assert len(Store().runs()) == 1 and len(Store().children(first["run"])) == 2 + 8


def test_what_cannot_be_is_said_below_the_table(capsys: pytest.CaptureFixture[str], small: list[str]) -> None:
    assert cli.main(["sweep", *small, "--sparsity", "0.97", "--seed", "0", "--method", "shared"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "magnitude, same allocation, 97 %, gamma 3.36, seed 0: " in said and "use more seeds" in said


def test_what_is_wrong_is_said_before_anything_is_kept(capsys: pytest.CaptureFixture[str], small: list[str]) -> None:
    seeds = [word for seed in range(150) for word in ("--seed", str(seed))]
    assert "at most 400" in refused(capsys, *small, *seeds)
    assert "between 0 and 1" in refused(capsys, *small, "--sparsity", "2")
    assert "no such run" in refused(capsys, "--run", "0123456789ab")
    assert "example" in refused(capsys, "--run", "example")
    assert Store().runs() == []
    assert "must be a list, each entry one of nirvana" in refused(capsys, *small, "--criterion", "guess")
