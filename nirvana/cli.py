"""The command line: the parser of all subcommands, and exit codes for their errors."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from functools import cache

import nirvana
from nirvana.commands.ablate import AblateCommand
from nirvana.commands.app import AppCommand
from nirvana.commands.command import Command, add_json
from nirvana.commands.costs import CostsCommand
from nirvana.commands.describe import CorporaCommand, InspectCommand
from nirvana.commands.estimate import EstimateCommand
from nirvana.commands.experiment import ExperimentCommand
from nirvana.commands.kernel import KernelCommand
from nirvana.commands.matrix import MatrixCommand
from nirvana.commands.measurements import SensitivityCommand, SpeedCommand
from nirvana.commands.recover import RecoverCommand
from nirvana.commands.run import RunCommand
from nirvana.commands.runs import CompareCommand, ReportCommand, RunsCommand
from nirvana.commands.search_allocation import SearchAllocationCommand
from nirvana.commands.steps import (
    AllocateCommand,
    CalibrateCommand,
    EvaluateCommand,
    GenerateCommand,
    PruneCommand,
    ScoreCommand,
)
from nirvana.commands.sweep import SweepCommand
from nirvana.commands.tune import TuneCommand
from nirvana.commands.unit import UnitCommand
from nirvana.commands.what_if import WhatIfCommand
from nirvana.environment import set_thread_policy
from nirvana.errors import KEPT, Cancelled, NirvanaError
from nirvana.jobs.execute import translated

COMMANDS: tuple[Command, ...] = (
    AppCommand(),
    RunCommand(),
    InspectCommand(),
    EstimateCommand(),
    CorporaCommand(),
    GenerateCommand(),
    CalibrateCommand(),
    ScoreCommand(),
    CostsCommand(),
    AllocateCommand(),
    PruneCommand(),
    RecoverCommand(),
    EvaluateCommand(),
    SweepCommand(),
    TuneCommand(),
    SearchAllocationCommand(),
    MatrixCommand(),
    KernelCommand(),
    ExperimentCommand(),
    RunsCommand(),
    CompareCommand(),
    ReportCommand(),
    SpeedCommand(),
    SensitivityCommand(),
    AblateCommand(),
    UnitCommand(),
    WhatIfCommand(),
)
FAILED, STOPPED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; without one, list them.

    Returns:
        The exit code: 0, 1 where the observation of an experiment does not appear, 2 after an error (its message and
        hint are on stderr), 130 after Ctrl+C.
    """
    set_thread_policy()
    parser = build_parser()
    parsed, code = parser.parse_args(arguments), 0
    try:
        if parsed.command is None:
            parser.print_help()
        else:
            with translated():
                code = parsed.command.run(parsed) or 0
        sys.stdout.flush()
    except (KeyboardInterrupt, Cancelled):
        print(f"Stopped. {KEPT}", file=sys.stderr)
        return STOPPED
    except NirvanaError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"       {error.hint}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # stdout was closed by its reader; flushing at exit must not fail
        return 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
    return code


@cache
def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, built once: its options take 20 ms."""
    parser = argparse.ArgumentParser(
        prog="nirvana",
        usage="%(prog)s COMMAND [options]",
        description=f"Structured pruning of language models.\n\n{_overview()}",
        epilog=f"Options of a command: nirvana COMMAND --help\nExample: {RunCommand.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=nirvana.__version__)
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(prog=parser.prog, metavar="COMMAND", help=argparse.SUPPRESS)
    for command in COMMANDS:
        epilog = f"Example: {command.example}" if command.example else None
        sub = commands.add_parser(command.name, description=command.help, epilog=epilog)
        if command.has_json:
            add_json(sub)
        sub.set_defaults(command=command)
        command.add_arguments(sub)
    return parser


def _overview() -> str:
    """The subcommands under the headings of their groups."""
    width = max(len(command.name) for command in COMMANDS)
    lines = []
    for group in dict.fromkeys(command.group for command in COMMANDS):
        lines += ["", f"{group}:"]
        lines += [f"  {each.name:<{width}}  {each.help}" for each in COMMANDS if each.group == group]
    return "\n".join(lines[1:])
