"""Recovery of a pruned checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from nirvana.commands.command import Command
from nirvana.commands.console import Bar, print_json, print_table
from nirvana.commands.steps import load
from nirvana.errors import CheckpointError
from nirvana.files import local_path
from nirvana.options import add_fields, given
from nirvana.recovery.options import RecoveryOptions
from nirvana.runs.options import add_options, apply_options
from nirvana.runs.recipe import Recipe


class RecoverCommand(Command):
    """Train a pruned checkpoint on text, by distillation from the dense model, adapters or language modelling."""

    name = "recover"
    group = "steps"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_options(parser, "model")
        add_options(parser, "calibration", only=("--corpus",))
        parser.add_argument("--dense", metavar="MODEL", help="the model that --model was pruned from")
        parser.add_argument("--output", metavar="FOLDER", default="recovered")
        parser.add_argument("--adapter", metavar="FOLDER", help="where to write the adapters alone, for peft")
        parser.add_argument(
            "--state", metavar="FOLDER", help="where an interrupted recovery is kept; the same command continues it"
        )
        parser.add_argument(
            "--preset", choices=["published"], help="published: NIRVANA's settings, for a file of instructions"
        )
        add_fields(parser, RecoveryOptions)

    def run(self, arguments: argparse.Namespace) -> None:
        recipe = apply_options(Recipe(), arguments)
        chosen = RecoveryOptions.published if arguments.preset else RecoveryOptions
        options = chosen(**given(RecoveryOptions, arguments))
        options.check()
        output = local_path(arguments.output, CheckpointError)
        with Bar().shown() as bar:
            small = load(recipe.model, bar)
            dense = load(recipe.model.with_values(name=arguments.dense), bar) if arguments.dense else None
            from nirvana.checkpoints.saving import save
            from nirvana.recovery.recover import recover
            from nirvana.runs.workspace import Workspace

            bar.step("recovery")
            healed = recover(
                small,
                Workspace(recipe, lm=small, progress=bar.progress).corpus(recipe.calibration.corpus),
                teacher=dense,
                options=options,
                state=Path(arguments.state) if arguments.state else None,
                adapter=Path(arguments.adapter) if arguments.adapter else None,
                progress=bar.progress,
            )
            folder = save(healed, output, progress=bar.progress)
        history = healed.history
        assert history is not None
        if arguments.json:
            print_json({"output": str(folder), "hash": healed.hash, **history.to_json()})
            return
        texts = list(history.checks[0].perplexity)
        rows = [
            [f"{check.step}{' (kept)' if check is history.best else ''}", f"{check.tokens:,}", f"{check.seconds:,.0f}"]
            + [f"{check.perplexity[text]:,.2f}" for text in texts]
            + [f"{check.kl[text]:.4f}" for text in texts if check.kl]
            for check in history.checks
        ]
        columns = ["step", "tokens", "seconds", *(f"perplexity, {text}" for text in texts)]
        columns += [f"KL, {text}" for text in texts if history.checks[0].kl]
        print_table("Held-out text", columns, rows)
        if history.stopped:
            print(history.stopped)
        if history.overfitted:
            print(f"Overfitting: {', '.join(history.overfitted)} got worse again while other text improved.")
        print(f"Wrote {folder}.")
