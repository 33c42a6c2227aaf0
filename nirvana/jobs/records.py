"""Records of jobs in the index of runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from nirvana.errors import Cancelled, NirvanaError, RunError
from nirvana.models.devices import devices
from nirvana.runs.identity import new_id, this_process
from nirvana.runs.run import Run


@dataclass(frozen=True)
class Outcome:
    """The end of a job: "done" with a result, or "failed", "cancelled" or "interrupted" with an error.

    An error has "step", "message" and "hint".
    """

    status: str
    error: dict[str, Any] | None = None
    result: dict[str, Any] | None = None


def outcome_of(error: BaseException, step: str = "") -> Outcome:
    """The outcome of a job that raised `error`; any other exception than a `NirvanaError` is an interrupt and counts as
    cancelled.
    """
    known = error if isinstance(error, NirvanaError) else Cancelled()
    status = "cancelled" if isinstance(known, Cancelled) else "failed"
    return Outcome(status, {"step": step, "message": known.message, "hint": known.hint})


def device_of(run: Run) -> str:
    """Name of the recipe's device; "auto" is the first one."""
    asked = run.recipe.model.device
    return devices()[0].name if asked == "auto" else asked


def record_job(run: Run, task: str, arguments: dict[str, Any], *, running: bool) -> str:
    """Insert a live job of this process; returns its id.

    If this process is killed, the next one to open the store marks the job interrupted.

    Raises:
        RunError: the run is the example, which has no jobs, or the index cannot be written.
    """
    if run.index is None:
        raise RunError("The example run cannot be changed.", "Start a run of your own from it.")
    job_id, now = new_id(), time.time()
    pid, started = this_process()
    run.index.insert(
        "jobs",
        id=job_id,
        run_id=run.id,
        task=task,
        until=str(arguments.get("until", "")),
        arguments=arguments,
        device=device_of(run),
        status="running" if running else "queued",
        created=now,
        started=now if running else None,
        owner_pid=pid,
        owner_started=started,
    )
    return job_id
