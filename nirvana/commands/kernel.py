"""`nirvana kernel`."""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any

from nirvana.commands.console import print_json, print_table
from nirvana.commands.study import StudyCommand
from nirvana.errors import RunError
from nirvana.reporting.text import plus_minus, short
from nirvana.runs.describe import model_name, percent
from nirvana.runs.run import Run
from nirvana.studies.kernel import Kernel, KernelRequest
from nirvana.studies.kernel_rows import PARTS, KernelStudy, read_kernel


class KernelCommand(StudyCommand[KernelRequest]):
    """Measure how far pruning by each criterion moves the tangent kernel, against the pruned saliency."""

    run_title = "Kernel of"
    study = Kernel()
    sections = ("model",)
    flags = (
        *("--corpus", "--samples", "--length", "--probe-seed", "--task"),
        *("--gamma", "--multiple-of", "--protect", "--uniform"),
    )

    def show(self, run: Run, request: KernelRequest, arguments: argparse.Namespace) -> None:
        found = read_kernel(run.folder)
        if found is None or not found.rows:
            why = found.failed[0].failure if found is not None and found.failed else "No point is finished."
            raise RunError(f"No shift was measured. {why}", "Run it again: failed points are tried again.")
        if arguments.json:
            print_json({"run": run.id, **found.to_json()})
        else:
            _show(found, model_name(run.recipe))


def _show(found: KernelStudy, name: str) -> None:
    from nirvana.reporting.kernel import PART_TITLES, bound_words, preservation_words

    measured = {(row.point.criterion, row.point.sparsity) for row in found.rows}
    cells = [each for each in product(found.criteria, found.sparsities) if each in measured]
    table = [[criterion, percent(sparsity), *_cells(found, criterion, sparsity)] for criterion, sparsity in cells]
    columns = ["criterion", "sparsity", "achieved", "pruned saliency", "kernel", "remaining", "lost"]
    print_table("Changes over the dense kernel, %", columns, table)
    for part in PARTS:
        rows = []
        for criterion in found.criteria:
            one = found.relation(part, criterion)
            numbers = one.slope, one.largest, one.exponent, one.rank, one.rank_within
            rows.append([criterion, *map(short, numbers)])
        title = f"{PART_TITLES[part]}, against pruned saliency"
        print_table(title, ["criterion", "slope", "largest ratio", "exponent", "Spearman", "at one input"], rows)
    for line in (*bound_words(found), *preservation_words(found)):
        print(f"- {line}")
    inputs: dict[str, Any] = found.settings["inputs"]
    print(
        f"{name}, {inputs['samples']} held-out windows of {inputs['length']} tokens of "
        f"{' + '.join(found.settings['hashes'])}; ± is one standard error over them. Slopes are in 1 / weight for the "
        "kernel."
    )
    for row in found.failed:
        print(f"{row.point.label}: {row.failure}")


def _cells(found: KernelStudy, criterion: str, sparsity: float) -> list[str]:
    changes = [found.relative(criterion, sparsity, part) for part in ("shift", "remaining", "lost")]
    return [
        f"{found.achieved(criterion, sparsity):.1%}",
        plus_minus(*found.saliency(criterion, sparsity)),
        *(plus_minus(100 * change.value, 100 * change.error) for change in changes),
    ]
