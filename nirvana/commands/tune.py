"""`nirvana tune`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nirvana.commands.command import output_file
from nirvana.commands.console import print_json, print_table
from nirvana.commands.study import StudyBar, StudyCommand
from nirvana.files import write_json
from nirvana.reporting.search import describe
from nirvana.runs.recipe import Recipe
from nirvana.runs.run import Run
from nirvana.studies.search import BASE, Search, SearchRequest, Tuning
from nirvana.studies.search_trials import Trial, read_trials

SHOWN = 10  # trials


class TuneCommand(StudyCommand[SearchRequest]):
    """Search for the recipe that changes a model least, by KL on probe text."""

    run_title = "Search for"
    study = Search()
    base = BASE
    sections = ("model", "recovery")  # the recovery is that of the best recipe
    flags = (
        *("--samples", "--length", "--task"),
        *("--statistics-samples", "--statistics-length", "--statistics-seed"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--output", metavar="FILE", help="write the best recipe here, for `run`")

    def adjust(self, request: SearchRequest, changed: dict[str, Any], recipe: Recipe) -> SearchRequest:
        if not request.corpora:
            request = request.with_values(corpora=(recipe.calibration.corpus,))
        if "trials" in changed and "minutes" not in changed:  # trials alone are the limit
            request = request.with_values(minutes=0.0)
        return request

    def bar(self, run: Run) -> StudyBar:
        return _Trials(self.name, run.id)

    def show(self, run: Run, request: SearchRequest, arguments: argparse.Namespace) -> None:
        settings, trials = read_trials(run.folder)
        found = Tuning(trials, settings or {}, recovery=run.recipe.recovery)
        best = found.best_recipe
        if arguments.output:
            write_json(output_file(arguments.output), best.to_json())
        if arguments.json:
            print_json({"run": run.id, "best": best.to_json(), **found.to_json()})
        else:
            _show(found)


class _Trials(StudyBar):
    """A bar with a line above it for each finished trial."""

    best: Trial | None = None

    def row(self, row: object) -> None:
        assert isinstance(row, Trial)
        if not row.failure and (self.best is None or row.kl < self.best.kl):
            self.best = row
        self.note(_line(row, self.best))


def _line(trial: Trial, best: Trial | None) -> str:
    """A finished trial as a line of a table whose last cell has any width."""
    result = "no model" if trial.failure else f"KL {trial.kl:.4f} ± {trial.kl_error:.4f}"
    mark = "best so far" if trial is best else f"best {best.kl:.4f}" if best else ""
    return f"{trial.number + 1:>5}  {result:<20}  {mark:<12}  {trial.seconds:>6.1f} s  {describe(trial.choices)}"


def _show(found: Tuning) -> None:
    texts = list(found.trials[0].perplexity)
    head = ["trial", "KL", *(f"perplexity, {Path(name).name}" for name in texts), "what"]
    print_table("The best trials", head, [_row(trial, texts) for trial in found.trials[:SHOWN]])
    correlation = found.correlation()
    if correlation.value == correlation.value:
        print(f"KL and perplexity have a rank correlation of {correlation.value:.2f} over {correlation.n} models.")
    probe = found.settings["probe"]
    print(
        f"KL on {probe['samples']} x {probe['length']} probe tokens ± one standard error; perplexity on probe splits."
    )
    if found.failed:
        print(f"{len(found.failed)} trials failed, e.g. {found.failed[0].failure}")


def _row(trial: Trial, texts: list[str]) -> list[str]:
    values = [f"{trial.perplexity[name][0]:.4g} ± {trial.perplexity[name][1]:.2g}" for name in texts]
    return [str(trial.number + 1), f"{trial.kl:.4g} ± {trial.kl_error:.2g}", *values, describe(trial.choices)]
