"""`nirvana run`, and what it shows of a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nirvana.allocation.rules import balance
from nirvana.checkpoints.sizes import FORMATS
from nirvana.commands.console import Bar, print_json, print_report, print_table
from nirvana.errors import CheckpointError, RunError
from nirvana.files import strict, write_json
from nirvana.runs.options import apply_options
from nirvana.runs.presets import PRESETS
from nirvana.runs.recipe import STEPS, Recipe
from nirvana.runs.validation import check_recipe

if TYPE_CHECKING:
    from nirvana.models.lm import LM
    from nirvana.runs.model_cache import ModelCache
    from nirvana.runs.run import Run


def run(arguments: argparse.Namespace) -> None:
    """Every step, kept as a run; with --output the pruned model and its records too."""
    from nirvana.jobs.foreground import foreground_job
    from nirvana.runs.store import Store

    recipe = apply_options(_read_recipe(arguments.recipe), arguments)
    until: str = arguments.until
    output = Path(arguments.output).expanduser() if arguments.output else None
    if output is not None:
        if STEPS.index(until) < STEPS.index("prune"):
            raise RunError(f"There is no checkpoint before the step prune, and --until says {until}.", "Drop one.")
        check_output(output, arguments.export)
    check_recipe(recipe, STEPS[: STEPS.index(until) + 1])
    store = Store()
    made = store.create(recipe, name=arguments.name)
    with Bar().shown() as bar, foreground_job(store, made, until):
        from nirvana.runs.model_cache import ModelCache
        from nirvana.runs.pipeline import compute_steps

        models = ModelCache()
        if output is not None:
            _refuse(models.dense(recipe.model, bar.progress), arguments.export)
        compute_steps(made, until=until, progress=bar.progress, models=models, on_step=bar.step)
        if output is not None:
            bar.step("export")
            _write_output(made, models, output, arguments.export, bar)
    show_run(made, arguments.json, output)


def check_output(target: Path, format: str) -> None:
    """Find out before the work whether an export in `format` may be put there."""
    from nirvana.checkpoints.placing import refuse_foreign, refuse_other_file

    (refuse_other_file if format == "gguf" else refuse_foreign)(target.absolute())


def summary(item: Run) -> dict[str, Any]:
    return {
        "id": item.id,
        "name": item.name,
        "status": item.status,
        "created": item.created,
        "pinned": item.pinned,
        "folder": str(item.folder),
        "recipe": item.recipe.to_json(),
    }


def show_run(item: Run, as_json: bool, output: Path | None) -> None:
    plan, report = item.plan(), item.report()
    steps = {step: item.info(step) for step in STEPS}
    if as_json:
        result = summary(item) | {"steps": steps, "report": report.to_json() if report else None}
        result["output"] = str(output) if output else None
        if plan is not None:
            result["plan"] = {"requested": plan.requested, "sparsity": plan.sparsity, "notes": list(plan.notes)}
        print_json(result)
        return
    rows = []
    for step in STEPS:
        info = steps[step] or {}
        seconds = info.get("seconds")
        time_spent = "" if seconds is None else f"{seconds:.1f} s" + (" (cached)" if info.get("cached") else "")
        rows.append([step, item.step_state(step), time_spent])
    print_table(f"Run {item.id}: {item.name}", ["step", "state", "time"], rows)
    if plan is not None:
        print(f"Sparsity {plan.sparsity:.5f} of {plan.requested:g} requested, {balance(plan)}.")
        for note in plan.notes:
            print(note)
    if report is not None:
        print_report(report, "Dense and pruned")
    failure = item.failure()
    if failure:
        print(f"{failure['status']}: {failure['message']} {failure['hint']}")
    if output is not None:
        print(f"The pruned model is in {output}.")


def _read_recipe(name: str | None) -> Recipe:
    if name is None:
        return Recipe()
    if name in PRESETS:
        return PRESETS[name].recipe
    try:
        return Recipe.from_json(json.loads(Path(name).expanduser().read_text(encoding="utf-8")))
    except FileNotFoundError:
        hint = f"Give a recipe.json, {' or '.join(PRESETS)}, or options only."
        raise RunError(f"There is no file {name}.", hint) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{name} is not a recipe: {error}.", "A run with --output writes one.") from error


def _refuse(lm: LM, format: str) -> None:
    """Find out before the work whether the model can be written in `format`."""
    from nirvana.checkpoints.exporting import refused_formats

    reason = refused_formats(lm).get(format) if format != FORMATS[0] else None
    if reason is not None:
        raise CheckpointError(reason, "Choose another format with --export.")


def _write_output(made: Run, models: ModelCache, output: Path, format: str, bar: Bar) -> None:
    from nirvana.checkpoints.exporting import export
    from nirvana.runs.workspace import Workspace

    workspace, report = Workspace.of(made, models=models, progress=bar.progress), made.report()
    plan, small = workspace.plan(), workspace.pruned()
    recipe = made.recipe.portable().to_json()
    folder = export(small, output, format=format, recipe=recipe, measured=report, progress=bar.progress).path
    if not folder.is_dir():
        return
    write_json(folder / "plan.json", plan.to_json())
    write_json(folder / "recipe.json", made.recipe.to_json())
    if report is not None:
        write_json(folder / "report.json", strict(report.to_json()))
