"""A run that is computed by this very process, as the command line does, but known to all others as a live job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from nirvana.errors import Cancelled, NirvanaError
from nirvana.runs.index import new_id, this_process
from nirvana.runs.run import Run
from nirvana.runs.store import Store


@contextmanager
def foreground_job(store: Store, run: Run, until: str, task: str = "run") -> Iterator[None]:
    """Record the block as a job of `run`: live while it lasts, then as it ended. Exceptions pass through.

    `task` is one of `nirvana.jobs.tasks.TASKS`.

    If this process is killed, the next one to open the store marks the job interrupted.
    """
    job_id, now = new_id(), time.time()
    pid, started = this_process()
    store.index.insert(
        "jobs",
        id=job_id,
        run_id=run.id,
        task=task,
        until=until,
        arguments={},
        device=run.recipe.model.device,
        status="running",
        created=now,
        started=now,
        owner_pid=pid,
        owner_started=started,
    )
    try:
        yield
    except (KeyboardInterrupt, Cancelled):
        store.index.finish(job_id, "cancelled", error=_error("Cancelled.", "The steps that were finished are kept."))
        run.steps.sweep()
        raise
    except NirvanaError as error:
        store.index.finish(job_id, "failed", error=_error(error.message, error.hint))
        raise
    except BaseException as error:
        store.index.finish(job_id, "failed", error=_error(f"{type(error).__name__}: {error}", ""))
        raise
    store.index.finish(job_id, "done")


def _error(message: str, hint: str) -> dict[str, str]:
    return {"step": "", "message": message, "hint": hint}
