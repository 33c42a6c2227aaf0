"""The command line with everything that can be wrong with its input: one clear message, and nothing is lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirvana import cli
from nirvana.files import content_hash
from nirvana.jobs.lane import IDLE_MINUTES
from nirvana.runs.store import Store
from tests.commands import NAMES, NEEDED, options, refused
from tests.conftest import write_tiny_model

pytest_plugins = ("tests.commands",)

BAD_INPUT = {
    "--model": "/no/such/folder",
    "--corpus": "/no/such.txt",
    "--name": "x" * 1000,
    "--samples": "0",
    "--sparsity": "0.999",
    "--length": "30000",
}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sparsity", "0"], "between 0 and 1"),
        (["--sparsity", "1"], "between 0 and 1"),
        (["--sparsity", "-0.1"], "between 0 and 1"),
        (["--sparsity", "nan"], "between 0 and 1"),
        (["--gamma", "nan"], "gamma"),
        (["--gamma", "-1"], "gamma"),
        (["--sparsity", "0.99"], "at most"),
        (["--samples", "0"], "samples"),
        (["--candidates", "0"], "candidates"),
        (["--criterion", "wanda"], "wanda"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--model", "/no/such/folder"], "no folder"),
        (["--dtype", "int3"], "int3"),
        (["--device", "abacus"], "abacus"),
        (["--corpus", "/no/such.txt"], "such.txt"),
        (["--evaluate-on", "no such corpus"], "no such corpus"),
        (["--window", "1"], "window"),
        (["--window", "4096", "--max-tokens", "8192"], "positions"),
        (["--protect", "77"], "77"),
        (["--until", "saliency", "--output", "out"], "checkpoint"),
        (["no-such-recipe.json"], "no-such-recipe.json"),
    ],
)
def test_bad_input_is_one_clear_message(
    capsys: pytest.CaptureFixture[str], small: list[str], words: list[str], expected: str
) -> None:
    message = refused(capsys, "run", *small, *words)
    assert expected in message and len([line for line in message.splitlines() if line.startswith("       ")]) == 1


def test_bad_files_are_one_clear_message(
    capsys: pytest.CaptureFixture[str], small: list[str], tmp_path: Path, tiny_folder: Path
) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"\x80nothing")
    nan = write_tiny_model(tmp_path / "nan")
    _poison(nan / "model.safetensors")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((tiny_folder / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "bare").mkdir()
    empty = tmp_path / "empty.txt"
    empty.touch()
    model = ["--model", str(tiny_folder), "--device", "cpu"]
    assert "not a recipe" in refused(capsys, "run", str(bad))
    assert "no file" in refused(capsys, "allocate", "--saliency", str(tmp_path / "none.npz"))
    assert "no saved scores" in refused(capsys, "allocate", "--saliency", str(bad))
    assert "not a calibration set" in refused(capsys, "score", *model, "--calibration", str(bad))
    assert "not a plan" in refused(capsys, "prune", *model, "--plan", str(bad))
    assert "NaN" in refused(capsys, "run", *small, "--model", str(nan))
    assert "pickled" in refused(capsys, "run", *small, "--model", str(pickled))
    assert "config.json" in refused(capsys, "run", *small, "--model", str(tmp_path / "bare"))
    assert "empty.txt" in refused(capsys, "run", *small, "--corpus", str(empty))


def _poison(path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, path, {"format": "pt"})


def test_an_output_folder_with_other_things_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    before = content_hash(*sorted(str(path) for path in tmp_path.rglob("*.tex")))
    assert "was not changed" in refused(capsys, "run", *small, "--output", str(tmp_path))
    assert Store().runs() == []
    assert content_hash(*sorted(str(path) for path in tmp_path.rglob("*.tex"))) == before


def test_a_failed_run_is_kept_with_its_reason(
    capsys: pytest.CaptureFixture[str], small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*arguments: Any, **named: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("nirvana.runs.planning.allocate", starve)
    assert "Memory ran out.\n       Use fewer" in refused(capsys, "run", *small)
    (run,) = Store().runs()
    failure = run.failure()
    assert run.status == "failed" and failure is not None
    assert (failure["step"], failure["message"]) == ("allocation", "Memory ran out.")
    assert run.step_state("saliency") == "done"
    assert cli.main(["runs", "show", run.id]) == 0
    assert "failed: Memory ran out." in capsys.readouterr().out


def test_memory_that_runs_out_is_explained_in_single_steps_too(
    capsys: pytest.CaptureFixture[str], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1e15 bytes")

    monkeypatch.setattr("nirvana.saliency.score.score", starve)
    words = ["score", "--model", str(tiny_folder), "--device", "cpu", "--criterion", "magnitude"]
    assert "Memory ran out.\n       Use fewer" in refused(capsys, *words, "--output", str(tmp_path / "scores.npz"))


def test_a_defect_shows_its_traceback_and_no_more_errors(
    capsys: pytest.CaptureFixture[str], tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("nirvana.models.inspection.inspect_model", broken)
    assert cli.main(["inspect", str(tiny_folder)]) == cli.FAILED
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "Error: ZeroDivisionError: division by zero.\n       This is a bug" in shown


def test_usage_errors_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["fly"], ["run", "--samples", "many"], ["runs", "burn"], ["score", "--seed"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
    assert "until must be one of model, calibration" in refused(capsys, "run", "--until", "never")


@pytest.mark.parametrize(
    ("name", "option"),
    [("run", "--output"), ("sweep", "--csv"), ("tune", "--output"), ("calibrate", "--output"), ("report", "--output")],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], name: str, option: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    words = ["example"] if name == "report" else ["--model", "tiny-llama"]
    message = refused(capsys, name, *words, option, str(tmp_path / "file" / "below"))
    assert "write permission" in message or "Not a directory" in message
    assert Store().runs() == [] and (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("name", ["run", "sweep", "tune", "matrix"])
def test_bad_input_leaves_no_run(
    capsys: pytest.CaptureFixture[str], name: str, tiny_folder: Path, sample_text: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(sample_text.read_text(encoding="utf-8")[::-1], encoding="utf-8")
    texts = {"matrix": ["--corpus", str(sample_text), "--corpus", str(other)], "run": ["--corpus", str(sample_text)]}
    for option, value in BAD_INPUT.items():
        if (name, option) in (
            ("sweep", "--sparsity"),
            ("sweep", "--length"),
            ("tune", "--length"),
            ("matrix", "--sparsity"),
            ("matrix", "--length"),
        ):
            continue  # recorded as failed points
        words = [name, "--model", str(tiny_folder), "--device", "cpu", *texts.get(name, []), option, value]
        assert "continue with" not in refused(capsys, *words)
        assert Store().runs() == [], option


@pytest.mark.parametrize("name", NAMES)
def test_no_number_is_a_traceback(
    capsys: pytest.CaptureFixture[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: sys.exit(2))  # of the app, at the one port that is a number
    monkeypatch.setenv(IDLE_MINUTES, "10")  # which the app sets for its server
    flags = [action.option_strings[0] for action in options(name) if action.type in (int, float)]
    needed = list(NEEDED.get(name, []))
    needed += (
        ["--model", "/no/such/folder"] if any("--model" in action.option_strings for action in options(name)) else []
    )
    needed += ["no-such-run"] if name in ("speed", "sensitivity") else []
    values = ("0", "-1", "nan", "inf", "-inf", "1e999", "9" * 40, "0x10", "", "٣")
    for words in ([name, *needed, f"{flag}={value}"] for flag in flags for value in values):
        try:
            code = cli.main(words)
        except SystemExit as stopped:
            code = int(str(stopped.code))
        shown = capsys.readouterr()
        assert code == 2 and shown.out == "" and "Traceback" not in shown.err, (words, shown.err)
    assert Store().runs() == []
