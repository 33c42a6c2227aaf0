"""Execution of a task, for the worker and the command line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nirvana import out_of_memory as memory
from nirvana.errors import NirvanaError, RunError
from nirvana.jobs.registry import find_task
from nirvana.progress import Reporter
from nirvana.runs.run import Run
from nirvana.schema import Schema

if TYPE_CHECKING:
    from nirvana.runs.model_cache import ModelCache
    from nirvana.studies.study import Executor


def check_task(run: Run, task: str, arguments: Mapping[str, Any]) -> Schema:
    """Validate a task before any work; returns its request.

    Args:
        arguments: values of the request by field name, as JSON values; missing fields take their defaults.

    Raises:
        RunError: the task or an argument is unknown or out of range, or the run is the example and would change.
        NirvanaError: the run does not suit the task.
    """
    found = find_task(task)
    request = found.request.from_json(arguments)
    if run.is_example and not found.reads_only:
        raise RunError("The example run cannot be changed.", "Start a run of your own from it.")
    found.check(run, request)
    return request


def execute(
    run: Run,
    task: str,
    arguments: Mapping[str, Any],
    reporter: Reporter,
    models: ModelCache | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Perform a task on a run; returns its result as JSON values.

    Args:
        run: holds the task's input and results.
        task: one of `nirvana.jobs.registry.TASKS`.
        arguments: see `check_task`.
        reporter: receives the steps and their progress; may raise `Cancelled`.
        models: holds models between calls; a new holder by default.
        executor: measures the points of a study elsewhere.

    Raises:
        Cancelled: the reporter asked for it. Results of finished steps are kept.
        NirvanaError: every other failure; see `translated`.
    """
    from nirvana.runs.model_cache import ModelCache

    models = models or ModelCache()
    with translated(models):
        request, found = check_task(run, task, arguments), find_task(task)
        found = found.on(executor) if executor is not None else found
        return found.perform(run, request, models, reporter) or {}


@contextmanager
def translated(models: ModelCache | None = None) -> Iterator[None]:
    """Raise every failure in the block as a `NirvanaError`; the traceback of an unexpected failure is written to
    stderr.

    Out of memory becomes an error with advice, after `models` are dropped.
    """
    try:
        yield
    except (NirvanaError, BrokenPipeError):  # the latter has no message: stdout was closed by its reader
        raise
    except Exception as error:
        if memory.is_out_of_memory(error):
            if models is not None:
                models.clear()
            raise RunError(memory.MESSAGE, memory.HINT) from error
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}".removesuffix(".")
        raise RunError(f"{message}.", "This is a bug: report it with the traceback in the log.") from error
