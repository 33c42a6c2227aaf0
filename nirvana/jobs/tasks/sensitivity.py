"""The task "sensitivity": KL after pruning each module of a run's model alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.errors import RunError
from nirvana.jobs.task import Task
from nirvana.progress import Reporter
from nirvana.runs.run import Run
from nirvana.schema import Schema, option

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache


class ScanRequest(Schema):
    """The share of units that is pruned."""

    rate: float = option(0.2, "--rate", "share of each module's units to prune", gt=0, lt=1)


class Scan(Task[ScanRequest]):
    """Scan with the run's scores, on its probes, and keep the result with the run. The task's result is the scan."""

    name = "sensitivity"
    title = "Sensitivity scan"
    request = ScanRequest

    def check(self, run: Run, request: ScanRequest) -> None:
        if run.info("saliency") is None:
            raise RunError("There are no scores yet.", "Score the units first.")
        if run.step_state("saliency") != "done":
            raise RunError("The scores are of earlier choices.", "Score the units again first.")

    def perform(self, run: Run, request: ScanRequest, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        from nirvana.evaluation.sensitivity import sensitivity
        from nirvana.runs.workspace import Workspace

        reporter.step("sensitivity", 1, 1)
        workspace = Workspace.of(run, models=models, progress=reporter.progress)
        scores, probe = workspace.saliency(), workspace.probe()
        found = sensitivity(workspace.lm, scores, probe, rate=request.rate, progress=reporter.progress)
        run.attach("sensitivity", found)
        return found.to_json()
