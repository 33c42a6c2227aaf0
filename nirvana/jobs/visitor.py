"""Jobs of one visitor of a public demo."""

from __future__ import annotations

from typing import Any

from nirvana.errors import RunError
from nirvana.jobs.demo import check_job
from nirvana.jobs.execute import check_task
from nirvana.jobs.queue import Job, JobManager
from nirvana.runs.store import Store

MOST_JOBS = 4  # waiting or running, of one visitor


class VisitorJobs:
    """A manager's jobs, as far as they belong to one visitor. The methods are those of `JobManager`; a job or a run of
    anyone else does not exist here, and only its place in the queue shows.
    """

    def __init__(self, manager: JobManager, visitor: str) -> None:
        self.store: Store = manager.store.of(visitor)
        self._manager = manager

    def submit(self, run_id: str, *, task: str = "run", **arguments: Any) -> Job:
        """Queue a task on a run of the visitor.

        Raises:
            RunError: the run is unknown or another visitor's, the job exceeds the limits of the demo, or the visitor
                has too many live jobs.
            NirvanaError: see `JobManager.submit`.
        """
        run = self.store.open(run_id)
        check_job(run, run.recipe, check_task(run, task, arguments))
        self.check_room()
        return self._manager.submit(run_id, task=task, **arguments)

    def check_room(self, jobs: int = 1) -> None:
        """Check that the visitor may queue as many jobs more.

        Raises:
            RunError: too many are live.
        """
        live = len(self.live_jobs())
        if live + jobs > MOST_JOBS:
            raise RunError(
                f"A visitor of this demo has at most {MOST_JOBS} jobs at a time; {live} are running or waiting.",
                "Wait for one to end, or cancel it.",
            )

    def jobs(self, run_id: str | None = None, *, limit: int = 200) -> list[Job]:
        """Jobs of a run of the visitor, or of all of them, newest first; none of another run."""
        return self._manager.jobs(run_id, limit=limit, visitor=self.store.visitor)

    def live_jobs(self) -> list[Job]:
        """The visitor's running and queued jobs, the next one first."""
        return self._manager.live_jobs(visitor=self.store.visitor)

    def job(self, job_id: str) -> Job:
        """The present state of a job of the visitor.

        Raises:
            RunError: there is no such job.
        """
        return self._manager.job(job_id, visitor=self.store.visitor)

    def live(self, run_id: str) -> Job | None:
        """The running job of a run, else its next queued one, or None."""
        return next((job for job in self.live_jobs() if job.run_id == run_id), None)

    def log(self, job_id: str, lines: int = 40) -> list[str]:
        """The last lines of the log of a job of the visitor; none of another job."""
        try:
            self.job(job_id)
        except RunError:
            return []
        return self._manager.log(job_id, lines)

    def cancel(self, job_id: str) -> None:
        """Stop a job of the visitor.

        Raises:
            RunError: there is no such job, or it belongs to another program.
        """
        self._manager.cancel(self.job(job_id).id)

    def others(self) -> int:
        """Number of live jobs of others."""
        return len(self._manager.live_jobs()) - len(self.live_jobs())

    def next_place(self, device: str) -> int:
        """See `JobManager.next_place`."""
        return self._manager.next_place(device)

    def unload(self) -> None:
        """See `JobManager.unload`."""
        self._manager.unload()

    def resident(self) -> list[dict[str, Any]]:
        """See `JobManager.resident`."""
        return self._manager.resident()
