"""The task "run": the steps of the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirvana.jobs.task import Task
from nirvana.progress import Reporter
from nirvana.runs.recipe import STEPS
from nirvana.runs.run import Run
from nirvana.runs.validation import check_recipe
from nirvana.schema import Schema, option

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache


class RunRequest(Schema):
    """The last step to compute."""

    until: str = option(STEPS[-1], "--until", "last step to compute", choices=lambda: STEPS)


class RunSteps(Task[RunRequest]):
    """Compute every step up to `until` whose result is not current."""

    name = "run"
    title = "Run"
    request = RunRequest

    def check(self, run: Run, request: RunRequest) -> None:
        check_recipe(run.recipe, run.recipe.up_to(request.until))

    def perform(self, run: Run, request: RunRequest, models: ModelCache, reporter: Reporter) -> None:
        from nirvana.runs.pipeline import compute_steps

        compute_steps(run, until=request.until, progress=reporter.progress, models=models, on_step=reporter.step)
