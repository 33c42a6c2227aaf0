"""The task "speed": both models of a run timed in turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.errors import RunError
from nirvana.jobs.task import Task, require_pruned
from nirvana.progress import Reporter
from nirvana.runs.run import Run
from nirvana.runs.speed import SpeedRequest, measure_speeds

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache


class Speed(Task[SpeedRequest]):
    """Time the dense and the pruned model in turns, and keep the report with the run. The result is the report."""

    name = "speed"
    title = "Measuring speed"
    request = SpeedRequest
    reads_only = True

    def check(self, run: Run, request: SpeedRequest) -> None:
        require_pruned(run)
        card, length = run.model(), request.prompt + request.new_tokens
        positions = card.geometry.get("positions", length) if card else length
        if length > positions:
            raise RunError(
                f"{length:,} tokens are more than the model's {positions:,} positions.",
                "Use a shorter prompt, or fewer new tokens.",
            )

    def perform(self, run: Run, request: SpeedRequest, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        from nirvana.runs.workspace import Workspace

        reporter.step("speed", 1, 1)
        report = measure_speeds(Workspace.of(run, models=models, progress=reporter.progress), request)
        if not run.is_example:
            run.attach("speed", report)
        return report.to_json()
