"""The tasks by name."""

from __future__ import annotations

from typing import Any

from nirvana.errors import RunError
from nirvana.jobs.task import Task
from nirvana.jobs.tasks.ablation import AblateUnit, AblateUnits, InspectUnit
from nirvana.jobs.tasks.continuation import Continue
from nirvana.jobs.tasks.costs import Costs
from nirvana.jobs.tasks.export import Export
from nirvana.jobs.tasks.measurements import Scan, Sizes, Speed
from nirvana.jobs.tasks.run import RunSteps
from nirvana.jobs.tasks.study import StudyTask
from nirvana.jobs.tasks.what_if import WhatIf
from nirvana.studies.allocation_search import AllocationStudy
from nirvana.studies.kernel import Kernel
from nirvana.studies.matrix import Matrix
from nirvana.studies.search import Search
from nirvana.studies.study import Study
from nirvana.studies.sweep import Sweep

STUDIES: tuple[Study[Any], ...] = (Sweep(), Search(), AllocationStudy(), Matrix(), Kernel())
_TASKS: list[Task[Any]] = [
    RunSteps(),
    Export(),
    Continue(),
    Speed(),
    Sizes(),
    Costs(),
    Scan(),
    AblateUnits(),
    AblateUnit(),
    InspectUnit(),
    WhatIf(),
]
TASKS = {task.name: task for task in (*_TASKS, *(StudyTask(study) for study in STUDIES))}


def find_task(name: str) -> Task[Any]:
    """The task of that name.

    Raises:
        RunError: there is none.
    """
    if name not in TASKS:
        raise RunError(f"There is no task {name!r}.", f"Tasks are {', '.join(TASKS)}.")
    return TASKS[name]
