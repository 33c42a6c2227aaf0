"""Jobs performed in this process, by the command line; other processes see them as live jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nirvana.jobs.execute import check_task, execute
from nirvana.jobs.records import outcome_of, record_job
from nirvana.progress import Reporter
from nirvana.runs.run import Run

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache
    from nirvana.studies.study import Executor


def execute_here(
    run: Run,
    task: str,
    arguments: Mapping[str, Any],
    reporter: Reporter,
    models: ModelCache | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """`execute`, recorded as a job of `run`: live while it runs, then with its outcome. Not recorded for the example.

    Raises:
        NirvanaError: see `execute`. An invalid request records no job.
    """
    request = check_task(run, task, arguments).to_json()
    if run.index is None:
        return execute(run, task, request, reporter, models, executor)
    job_id = record_job(run, task, request, running=True)
    noting = _Noting(reporter)
    try:
        result = execute(run, task, request, noting, models, executor)
    except BaseException as error:
        outcome = outcome_of(error, noting.current)
        run.index.finish(job_id, outcome.status, error=outcome.error)
        run.steps.sweep()
        raise
    run.index.finish(job_id, "done", result=result)
    return result


class _Noting:
    """A reporter that forwards reports and keeps the current step."""

    def __init__(self, reporter: Reporter) -> None:
        self.current = ""
        self._reporter = reporter
        self.row, self.progress = reporter.row, reporter.progress

    def step(self, step: str, number: int, steps: int) -> None:
        self.current = step
        self._reporter.step(step, number, steps)
