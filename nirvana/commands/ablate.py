"""`nirvana ablate`."""

from __future__ import annotations

import argparse
from typing import Any

from nirvana.commands.command import Command
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.evaluation.ablation_results import Ablations, Correlation
from nirvana.jobs.execute import check_task
from nirvana.jobs.foreground import execute_here
from nirvana.jobs.tasks.ablation import AblationRequest, UnitRequest
from nirvana.options import add_fields, given
from nirvana.reporting.text import plus_minus, short
from nirvana.runs.store import Store

SHOWN = 8  # units


class AblateCommand(Command):
    """Remove units of a stored run's model one by one, and compare their effect with the first-order prediction."""

    name = "ablate"
    group = "runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", metavar="RUN", help="with scores, as listed by `nirvana runs`")
        add_fields(parser, AblationRequest)
        add_fields(parser, UnitRequest, only=("--site", "--unit"))

    def run(self, arguments: argparse.Namespace) -> None:
        run = Store().open(arguments.run)
        drawn, one = given(AblationRequest, arguments), given(UnitRequest, arguments)
        task, values = ("ablate-unit", one) if "site" in one else ("ablation", drawn)
        check_task(run, task, values)
        with Bar().shown() as bar:
            result: dict[str, Any] = execute_here(run, task, values, bar)
        if arguments.json:
            print_json(result)
        else:
            _show(Ablations.from_json(result))


def _show(found: Ablations) -> None:
    if len(found.items) > 1:
        pairs = {
            "score, |change of f|": found.score_and_change,
            "first order, change of f": found.first_order_and_change,
            "score, KL": found.score_and_kl,
            "|first order|, KL": found.first_order_size_and_kl,
        }
        rows = [[title, kind, *_cells(method(kind))] for title, method in pairs.items() for kind in found.kinds]
        print_table(
            "Predicted against measured", ["", "kind", "units", "Pearson", "Pearson of logarithms", "Spearman"], rows
        )
        signs = ", ".join(f"{found.wrong_signs(kind):.0%} of {kind}s" for kind in found.kinds)
        print(f"First order predicts the wrong sign of the change of f for {signs}.")
        errors = sorted(found.errors().items(), key=lambda item: -item[1])[:SHOWN]
        print_table(
            "Modules where first order misses most of the change",
            ["module", "missed over measured"],
            [[site.key, short(error)] for site, error in errors],
        )
    columns = ["module", "unit", "score", "first order", "change of f", "KL, nats"]
    rows = [
        [
            item.site.key,
            str(item.unit),
            *map(short, (item.score, item.first_order, item.change)),
            plus_minus(item.kl, item.kl_error),
        ]
        for item in found.worst(SHOWN)
    ]
    print_table("Units whose change of f first order misses by most", columns, rows)
    values = found.protocol
    print(
        f"f of the dense model {values['output']:.4g}; {values['samples']} windows of {values['length']} tokens; "
        f"scores by {values['criterion']}; ± is one standard error over windows."
    )


def _cells(found: Correlation) -> list[str]:
    return [str(found.n), *(f"{value:.2f}" for value in (found.pearson, found.pearson_log, found.spearman))]
