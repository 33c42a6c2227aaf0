"""`nirvana tune`: search for the recipe that changes a model least; the search is a run that can be continued."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nirvana.commands.console import Bar, print_json, print_table
from nirvana.files import write_json
from nirvana.reporting.search import describe
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.store import Store
from nirvana.saliency.criteria import available
from nirvana.studies.search import BASE, Tuning
from nirvana.studies.search_space import CRITERIA
from nirvana.studies.search_task import TUNE, check_tune
from nirvana.studies.search_trials import Trial

SHOWN = 10  # trials


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the search, and of what it leaves as it is."""
    parser.add_argument(
        "--corpus", dest="texts", action="append", metavar="TEXT", help="to calibrate on; may be repeated, and is mixed"
    )
    parser.add_argument("--sparsity", type=float, default=TUNE["sparsity"], help="of every trial (default: 0.2)")
    parser.add_argument("--minutes", type=float, default=None, help="stop when they are over (default: 10)")
    parser.add_argument("--trials", type=int, default=0, help="stop after so many; with --minutes, whichever is first")
    parser.add_argument(
        "--criterion", dest="criteria", action="append", choices=available(), metavar="CRITERION", help="to choose from"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--run", metavar="RUN", help="continue the search of this run")
    parser.add_argument("--output", metavar="FILE", help="write the best recipe here, for `run`")
    parser.add_argument("--name", default="", help="name of the run in the list of runs")
    add_options(parser, "model")
    add_options(parser, "calibration", only=("--samples", "--length", "--task"))
    add_options(parser, "prune", only=("--statistics-samples", "--statistics-length", "--statistics-seed"))


def tune(arguments: argparse.Namespace) -> None:
    """Search, and show the best trials."""
    from nirvana.jobs.foreground import foreground_job
    from nirvana.studies.search import tune as search

    store = Store()
    base = store.open(arguments.run) if arguments.run else None
    recipe = apply_options(base.recipe if base else BASE, arguments)
    minutes = arguments.minutes if arguments.minutes is not None or arguments.trials else TUNE["minutes"]
    asked = {"sparsity": arguments.sparsity, "criteria": arguments.criteria or list(CRITERIA), "seed": arguments.seed}
    corpora = arguments.texts or [recipe.calibration.corpus]
    if base is None:
        base = store.create(recipe, name=arguments.name or f"Search for {Path(recipe.model.name).name}"[:120])
    check_tune(base, "evaluate", corpora=corpora, minutes=minutes or 0, trials=arguments.trials, **asked)
    print(f"Run {base.id}. If it is stopped, go on with the same options and --run {base.id}", file=sys.stderr)
    with Bar().shown() as bar, foreground_job(store, base, "evaluate", "tune"):
        from nirvana.runs.model_cache import ModelCache

        lm = ModelCache().dense(recipe.model, bar.progress)
        bar.step("tune")
        found = search(
            lm,
            corpora,
            minutes=minutes,
            trials=arguments.trials or None,
            base=recipe,
            folder=base.folder,
            progress=bar.progress,
            on_trial=lambda trial, best: bar.note(_line(trial, best)),
            **asked,
        )
        best = found.best.recipe
    assert best is not None
    if arguments.output:
        write_json(Path(arguments.output).expanduser(), best.to_json())
    if arguments.json:
        print_json({"run": base.id, "best": best.to_json(), **found.to_json()})
    else:
        _show(found)


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
