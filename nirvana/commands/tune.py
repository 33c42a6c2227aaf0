"""`nirvana tune`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nirvana.commands.command import output_file
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.commands.study import StudyCommand
from nirvana.errors import RunError
from nirvana.files import write_json
from nirvana.reporting.search import describe
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.saliency.criteria import available
from nirvana.studies.search import BASE, Tuning
from nirvana.studies.search_space import CRITERIA
from nirvana.studies.search_task import TUNE
from nirvana.studies.search_trials import Trial, read_trials

SHOWN = 10  # trials


class TuneCommand(StudyCommand):
    """Search for the recipe that changes a model least, by KL on probe text."""

    name = "tune"
    title = "Search for"
    base = BASE
    sections = {  # noqa: RUF012
        "model": (),
        "calibration": ("--samples", "--length", "--task"),
        "prune": ("--statistics-samples", "--statistics-length", "--statistics-seed"),
    }

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--corpus",
            dest="texts",
            action="append",
            metavar="TEXT",
            help="calibration text; may be repeated and mixed",
        )
        parser.add_argument("--sparsity", type=float, default=TUNE["sparsity"], help="of every trial (default: 0.2)")
        parser.add_argument("--minutes", type=float, default=None, help="stop when they are over (default: 10)")
        parser.add_argument(
            "--trials", type=int, default=0, help="stop after so many; with --minutes, whichever is first"
        )
        parser.add_argument(
            "--criterion", dest="criteria", action="append", choices=available(), metavar="CRITERION", help="candidate"
        )
        parser.add_argument("--seed", type=int, default=0, help="of the search")
        parser.add_argument("--output", metavar="FILE", help="write the best recipe here, for `run`")
        super().add_arguments(parser)

    def request(self, arguments: argparse.Namespace, run: Run | None, recipe: Recipe) -> dict[str, Any]:
        if arguments.output:
            output_file(arguments.output)
        minutes = arguments.minutes if arguments.minutes is not None or arguments.trials else TUNE["minutes"]
        asked = {
            "sparsity": arguments.sparsity,
            "criteria": arguments.criteria or list(CRITERIA),
            "seed": arguments.seed,
        }
        corpora = arguments.texts or [recipe.calibration.corpus]
        return {"corpora": corpora, "minutes": minutes or 0, "trials": arguments.trials, **asked}

    def bar(self) -> Bar:
        return _Trials()

    def show(self, run: Run, request: dict[str, Any], arguments: argparse.Namespace) -> None:
        settings, trials = read_trials(run.folder)
        found = Tuning(trials, settings or {}, lambda trial: None)  # type: ignore[arg-type,return-value]
        if not found.trials:
            raise RunError("No trial gave a model.", "Lower the sparsity, or give more minutes.")
        base, layers = Recipe.from_json(found.settings["base"]), found.settings["layers"]
        best = found.trials[0].choices.recipe(base, found.settings["sparsity"], layers)
        if arguments.output:
            write_json(output_file(arguments.output), best.to_json())
        if arguments.json:
            print_json({"run": run.id, "best": best.to_json(), **found.to_json()})
        else:
            _show(found)


class _Trials(Bar):
    def on_trial(self, trial: Trial, best: Trial | None) -> None:
        self.note(_line(trial, best))


def _line(trial: Trial, best: Trial | None) -> str:
    """What a trial gave, as the search goes on: a row of a table whose last cell is as wide as it needs."""
    told = "no model" if trial.failure else f"KL {trial.kl:.4f} ± {trial.kl_error:.4f}"
    mark = "best so far" if trial is best else f"best {best.kl:.4f}" if best else ""
    return f"{trial.number + 1:>5}  {told:<20}  {mark:<12}  {trial.seconds:>6.1f} s  {describe(trial.choices)}"


def _show(found: Tuning) -> None:
    texts = list(found.trials[0].perplexity)
    head = ["trial", "KL", *(f"perplexity, {Path(name).name}" for name in texts), "what"]
    print_table("The best trials", head, [_row(trial, texts) for trial in found.trials[:SHOWN]])
    told = found.correlation()
    if told.value == told.value:
        print(f"KL and perplexity go together with a rank correlation of {told.value:.2f} over {told.n} models.")
    probe = found.settings["probe"]
    print(
        f"KL on {probe['samples']} x {probe['length']} probe tokens ± one standard error; perplexity on probe splits."
    )
    if found.failed:
        print(f"{len(found.failed)} trials gave no model, e.g. {found.failed[0].failure}")


def _row(trial: Trial, texts: list[str]) -> list[str]:
    values = [f"{trial.perplexity[name][0]:.4g} ± {trial.perplexity[name][1]:.2g}" for name in texts]
    return [str(trial.number + 1), f"{trial.kl:.4g} ± {trial.kl_error:.2g}", *values, describe(trial.choices)]
