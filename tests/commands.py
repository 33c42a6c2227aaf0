"""Commands of the command line, run within the test."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from nirvana import cli


@pytest.fixture
def small(tiny_folder: Path, sample_text: Path) -> list[str]:
    """Options of a run that takes a second."""
    words = ["--model", str(tiny_folder), "--device", "cpu", "--corpus", str(sample_text), "--candidates", "2"]
    words += ["--samples", "4", "--length", "32", "--probe-samples", "6", "--probe-length", "16"]
    return [*words, "--evaluate-on", str(sample_text), "--window", "64", "--max-tokens", "1024", "--multiple-of", "4"]


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Run a command with --json; its result."""
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail; what it says on stderr."""
    assert cli.main(list(words)) == cli.FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("Error: ") == 1 and "Traceback" not in captured.err
    return captured.err


class Recorder(argparse.ArgumentParser):
    """A parser that lists its options."""

    def __init__(self, **named: Any) -> None:
        self.actions: list[argparse.Action] = []
        super().__init__(**named)

    def add_argument(self, *words: Any, **named: Any) -> argparse.Action:
        self.actions.append(super().add_argument(*words, **named))
        return self.actions[-1]


def options(name: str) -> list[argparse.Action]:
    """The options of a subcommand."""
    parser = Recorder()
    next(command for command in cli.COMMANDS if command.name == name).add_arguments(parser)
    return parser.actions


def naming_example(name: str) -> list[str]:
    """The words that name the example run; empty where the subcommand takes no run."""
    found = [action for action in options(name) if action.dest in ("run", "runs")]
    return [*found[0].option_strings, "example"] if found else []


NAMES = [command.name for command in cli.COMMANDS]
NEEDED = {
    "estimate": ["/no/such/folder"],
    "matrix": ["--corpus", "python-docs", "--corpus", "library-docs"],
    "unit": ["--site", "decoder.0.mlp", "--unit", "1524"],  # which is inspected: no model is loaded
}
READING = ("compare", "report", "unit")  # subcommands that change nothing
