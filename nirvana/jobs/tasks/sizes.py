"""The task "sizes": quality against bytes of a run's models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.errors import RunError
from nirvana.jobs.task import Task, require_pruned
from nirvana.progress import Reporter
from nirvana.runs.run import Run
from nirvana.runs.speed import SizesRequest, quality_against_bytes

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache


class Sizes(Task[SizesRequest]):
    """Measure quality against bytes, and keep the report with the run. The result is the report."""

    name = "sizes"
    title = "Measuring quality against bytes"
    request = SizesRequest
    reads_only = True

    def check(self, run: Run, request: SizesRequest) -> None:
        require_pruned(run)
        if not run.recipe.evaluation.corpora:
            raise RunError("There is no text to measure perplexity on.", "Choose one on the Compare page.")

    def perform(self, run: Run, request: SizesRequest, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        from nirvana.runs.workspace import Workspace

        reporter.step("sizes", 1, 1)
        report = quality_against_bytes(Workspace.of(run, models=models, progress=reporter.progress), request.schemes)
        if not run.is_example:
            run.attach("sizes", report)
        return report.to_json()
