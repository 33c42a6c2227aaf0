"""A kept run as JSON and as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nirvana.allocation.rules import balance
from nirvana.commands.console import print_json, print_report, print_table
from nirvana.runs.recipe import STEPS
from nirvana.runs.run import Run


def summary(item: Run) -> dict[str, Any]:
    """A run's entry in a list, as JSON values."""
    return {
        "id": item.id,
        "name": item.name,
        "status": item.status,
        "created": item.created,
        "pinned": item.pinned,
        "folder": str(item.folder),
        "recipe": item.recipe.to_json(),
    }


def show_run(item: Run, as_json: bool, output: Path | None = None) -> None:
    """Print the steps, the plan and the report of a run.

    Args:
        output: where its model was written to.
    """
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
