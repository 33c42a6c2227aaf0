"""A job that this very process performs, as the command line does; other processes see it as a live job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nirvana.jobs.execute import check_task, execute
from nirvana.jobs.records import outcome_of, record_job
from nirvana.progress import Reporter
from nirvana.runs.run import Run

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache


def execute_here(
    run: Run, task: str, arguments: Mapping[str, Any], reporter: Reporter, models: ModelCache | None = None
) -> dict[str, Any]:
    """`execute`, recorded as a job of `run`: live while it lasts, then as it ended. The example records nothing.

    Raises:
        NirvanaError: see `execute`. A request that is refused leaves no job behind.
    """
    request = check_task(run, task, arguments).to_json()
    if run.index is None:
        return execute(run, task, request, reporter, models)
    job_id = record_job(run, task, request, running=True)
    try:
        result = execute(run, task, request, reporter, models)
    except BaseException as error:
        outcome = outcome_of(error)
        run.index.finish(job_id, outcome.status, error=outcome.error)
        run.steps.sweep()
        raise
    run.index.finish(job_id, "done", result=result)
    return result
