"""The task "sensitivity": prune each site of a run's model alone, and keep how far the predictions moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.errors import RunError
from nirvana.evaluation.sensitivity_result import Sensitivity
from nirvana.progress import ProgressCallback
from nirvana.runs.run import Run

if TYPE_CHECKING:
    from nirvana.jobs.worker import Reporter
    from nirvana.runs.model_cache import ModelCache

SCAN: dict[str, Any] = {"rate": 0.2}


def scan(run: Run, *, models: ModelCache, reporter: Reporter, until: str, rate: float) -> dict[str, Any]:
    """The worker's task."""
    reporter.step("sensitivity", 1, 1)
    return {"sites": len(scan_run(run, models, rate, reporter.progress))}


def scan_run(run: Run, models: ModelCache, rate: float, progress: ProgressCallback | None) -> Sensitivity:
    """Scan with the run's scores, on its probes, and keep the result with the run.

    Raises:
        RunError: the scores or the model are missing or have changed.
    """
    from nirvana.evaluation.sensitivity import sensitivity
    from nirvana.runs.workspace import Workspace

    workspace = Workspace.of(run, models=models, progress=progress)
    scores, probe = workspace.saliency(), workspace.probe()
    found = sensitivity(workspace.lm, scores, probe, rate=rate, progress=progress)
    run.attach("sensitivity", found)
    return found


def check_scan(run: Run, until: str, *, rate: Any) -> None:
    """Refuse a scan that cannot be.

    Raises:
        RunError: there are no scores of the run's own choices, or the rate is out of range.
    """
    if run.info("saliency") is None:
        raise RunError("There are no scores yet.", "Score the units first.")
    if run.step_state("saliency") != "done":
        raise RunError("The scores are of earlier choices.", "Score the units again first.")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1:
        raise RunError(f"The rate lies between 0 and 1, not at {rate!r}.", "Use 0.2 to prune 20 % of each site.")
