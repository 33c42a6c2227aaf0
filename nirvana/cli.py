"""The command line: `python -m nirvana run`, and one subcommand for each step. Torch is imported by what needs it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import nirvana
from nirvana.checkpoints.sizes import FORMATS
from nirvana.commands import compare as compare_command
from nirvana.commands import matrix as matrix_command
from nirvana.commands import report as report_command
from nirvana.commands import run as run_command
from nirvana.commands import runs as runs_commands
from nirvana.commands import sensitivity as sensitivity_command
from nirvana.commands import speed as speed_command
from nirvana.commands import steps
from nirvana.commands import sweep as sweep_command
from nirvana.commands import tune as tune_command
from nirvana.errors import Cancelled, NirvanaError
from nirvana.evaluation.schemes import SCHEMES
from nirvana.runs.options import add_options
from nirvana.runs.recipe import STEPS
from nirvana.runs.speed import RANGES, SPEED

HELP = {
    "batch": "prompts at once",
    "prompt": "tokens of each prompt",
    "new_tokens": "tokens to write after it",
    "repeats": "turns of each model",
}
EXAMPLE = "python -m nirvana run --model smollm2-135m --sparsity 0.2 --gamma 3.36 --output pruned"
FAILED, STOPPED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 2 for an expected error (said on stderr), 130 after Ctrl+C."""
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.command(parsed)
        sys.stdout.flush()
    except NirvanaError as error:
        if isinstance(error, Cancelled):
            return _stopped()
        print(f"Error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"       {error.hint}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return _stopped()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read our output has left; say nothing at exit
        return 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
    return 0


def _stopped() -> int:
    print("Stopped. The steps that were finished are kept.", file=sys.stderr)
    return STOPPED


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="nirvana", description="Structured pruning of language models.", epilog=f"Example: {EXAMPLE}"
    )
    parser.add_argument("--version", action="version", version=nirvana.__version__)
    commands_of = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands_of)
    _add_steps(commands_of)
    _add_speed(commands_of)
    about = "Try a grid of criteria, allocations, sparsities and seeds, and say which differences are clear."
    sweep_command.add_arguments(_command(commands_of, "sweep", sweep_command.sweep, about))
    about = "Search for the recipe that changes a model least, by KL on probe text."
    tune_command.add_arguments(_command(commands_of, "tune", tune_command.tune, about))
    about = "Calibrate on each of several texts, and measure each pruned model on all of them."
    matrix_command.add_arguments(_command(commands_of, "matrix", matrix_command.matrix, about))
    _add_runs(commands_of)
    return parser


def _command(parsers: Any, name: str, function: Any, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parsers.add_parser(name, help=help_text, description=help_text)
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else, on stdout")
    parser.set_defaults(command=function)
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--export",
        choices=FORMATS,
        default=FORMATS[0],
        help="checkpoint: each layer at its own size; uniform: filled up to the widest layer, plain; gguf: for "
        "llama.cpp (default: checkpoint)",
    )


def _add_run(parsers: Any) -> None:
    run = _command(parsers, "run", run_command.run, "Do every step, from the model to the report, and keep the run.")
    run.epilog = f"Example: {EXAMPLE}"
    run.add_argument("recipe", nargs="?", help="recommended, paper or a recipe.json; options override what it says")
    add_options(run, "model", "calibration", "saliency", "allocation", "prune", "evaluation")
    run.add_argument("--until", choices=STEPS, default=STEPS[-1], help="the last step to do (default: evaluate)")
    run.add_argument(
        "--output",
        metavar="PATH",
        help="write the model here, and into its folder plan.json, report.json and recipe.json; a .gguf file for gguf",
    )
    _add_export(run)
    run.add_argument("--name", default="", help="name of the run in the list of runs")


def _add_steps(parsers: Any) -> None:
    inspect = _command(parsers, "inspect", steps.inspect, "Describe a model without reading its weights.")
    inspect.add_argument("model", nargs="?", default="smollm2-135m")

    corpora = _command(parsers, "corpora", steps.corpora, "List the corpora, or describe one.")
    corpora.add_argument("name", nargs="?")

    calibrate = _command(parsers, "calibrate", steps.calibrate, "Draw calibration sets and choose one by KL.")
    add_options(calibrate, "model", "calibration")
    calibrate.add_argument("--output", metavar="FILE", default="calibration.npz")

    score = _command(parsers, "score", steps.score, "Score every prunable unit.")
    add_options(score, "model", "saliency")
    score.add_argument("--calibration", metavar="FILE", help="what `calibrate` wrote; magnitude and random need none")
    score.add_argument("--seed", type=int, help="for the random criterion (default: that of the calibration set, or 0)")
    score.add_argument("--output", metavar="FILE", default="saliency.npz")

    allocate = _command(parsers, "allocate", steps.allocate, "Choose the units to keep.")
    add_options(allocate, "allocation")
    allocate.add_argument("--saliency", metavar="FILE", default="saliency.npz", help="what `score` wrote")
    allocate.add_argument("--output", metavar="FILE", default="plan.json")

    prune = _command(parsers, "prune", steps.prune, "Cut the units out and write the pruned checkpoint.")
    add_options(prune, "model", "prune")
    add_options(prune, "calibration", only=("--corpus", "--task"))
    prune.add_argument("--plan", metavar="FILE", default="plan.json", help="what `allocate` wrote")
    prune.add_argument("--output", metavar="PATH", default="pruned", help="a folder, or a .gguf file for gguf")
    _add_export(prune)

    evaluate = _command(
        parsers, "evaluate", steps.evaluate, "Measure perplexity and zero-shot tasks, and KL from a dense model."
    )
    add_options(evaluate, "model", "evaluation")
    add_options(
        evaluate, "calibration", only=("--corpus", "--probe-samples", "--probe-length", "--probe-seed", "--task")
    )
    evaluate.add_argument("--dense", metavar="MODEL", help="the model that --model was pruned from")

    generate = _command(parsers, "generate", steps.generate, "Let a model write a corpus (.jsonl).")
    add_options(generate, "model")
    generate.add_argument("--tokens", type=int, help="about how many to write")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--temperature", type=float, default=1.0)
    generate.add_argument("--output", metavar="FILE", default="generated.jsonl")


def _add_speed(parsers: Any) -> None:
    about = "Time models in turns: a kept run's dense and pruned one, or any."
    speed = _command(parsers, "speed", speed_command.speed, about)
    speed.add_argument(
        "models", nargs="+", metavar="RUN_OR_MODEL", help="a run's id, or models, the first to compare with"
    )
    for name, (low, high) in RANGES.items():
        option = f"--{name.replace('_', '-')}"
        text = f"{HELP[name]}, {low} to {high:,} (default: {SPEED[name]})"
        speed.add_argument(option, type=int, default=SPEED[name], metavar="N", help=text)
    speed.add_argument("--quantised", action="append", choices=list(SCHEMES), help="time a quantised copy of each too")
    speed.add_argument("--sizes", action="store_true", help="measure quality against bytes as well, of a run's models")
    speed.add_argument("--device", help="of models that are named (default: auto)")
    speed.add_argument("--dtype", help="likewise")


def _add_runs(parsers: Any) -> None:
    about = "Prune each module of a kept run's model alone, and show what it misses most."
    scan = _command(parsers, "sensitivity", sensitivity_command.sensitivity, about)
    scan.add_argument("run", metavar="RUN", help="with scores, as listed by `runs list`")
    scan.add_argument("--rate", type=float, default=0.2, help="share of each module's units (default: 0.2)")
    compare = _command(parsers, "compare", compare_command.compare, "Set kept runs side by side, with clear winners.")
    compare.add_argument("runs", nargs="+", metavar="RUN", help='as listed by `runs list`, or "example"')
    compare.add_argument("--csv", metavar="FILE", help="write every number, one a line")
    report = _command(parsers, "report", report_command.report, "Write everything that a run holds as one HTML file.")
    report.add_argument("run", metavar="RUN", help='as listed by `runs list`, or "example"')
    report.add_argument("--output", metavar="FILE", help="where to (default: RUN.html)")
    runs = parsers.add_parser("runs", help="List, show, rename, pin or delete runs.", description="The kept runs.")
    actions = runs.add_subparsers(required=True, metavar="ACTION")
    _command(actions, "list", runs_commands.list_runs, "List all runs.")
    for name, function, help_text in (
        ("show", runs_commands.show, "Show one run with its report."),
        ("delete", runs_commands.delete, "Delete a run and its folder."),
        ("pin", runs_commands.pin, "Keep a run at the top of the list."),
        ("unpin", runs_commands.pin, "No longer keep a run at the top."),
        ("rename", runs_commands.rename, "Give a run another name."),
    ):
        parser = _command(actions, name, function, help_text)
        parser.add_argument("id", help='as listed, or "example"')
        parser.set_defaults(action=name)
        if name == "rename":
            parser.add_argument("name")
