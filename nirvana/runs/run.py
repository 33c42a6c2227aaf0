"""A run: its recipe, its results and their records."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
from nirvana.costs import CostTables
from nirvana.errors import RunError
from nirvana.evaluation.ablation_results import Ablations
from nirvana.evaluation.plan_trials import PlanTrials
from nirvana.evaluation.results import Report
from nirvana.evaluation.speed_report import SpeedReport
from nirvana.evaluation.unit_inspection_results import UnitInspections
from nirvana.loss_curves import Sensitivity
from nirvana.plan import PruningPlan
from nirvana.recovery.history import RecoveryHistory
from nirvana.runs.folder import FORMATS, StepFolder
from nirvana.runs.index import LIVE, Index
from nirvana.runs.recipe import Recipe
from nirvana.runs.results import Continuation, ModelCard, PruneSummary
from nirvana.saliency.scores import Saliency

Attached = SpeedReport | Report | Sensitivity | Ablations | UnitInspections | PlanTrials | CostTables
PACKAGES = ("nirvana-studio", "torch", "transformers", "tokenizers", "numpy", "safetensors", "datasets", "gguf")


@dataclass(frozen=True, eq=False)
class Run:
    """One run: its recipe when it was opened, and the present results of its folder.

    Results are read on each call; None stands for a missing result. `created` is in seconds since 1970.
    """

    id: str
    name: str
    recipe: Recipe
    created: float
    pinned: bool
    folder: Path
    index: Index | None  # None for the example
    study: str = ""  # id of the run with the study of which this is a point
    visitor: str = ""  # who made it in a public demo

    @property
    def is_example(self) -> bool:
        return self.index is None

    @property
    def status(self) -> str:
        """ "running" or "queued" while a job is live; "done" with every step current; "failed", "cancelled" or
        "interrupted" by the last job; else "partial" or "empty" by its results.
        """
        jobs = self._jobs()
        live = {job["status"] for job in jobs if job["status"] in LIVE}
        if live:
            return "running" if "running" in live else "queued"
        states = [self.step_state(step) for step in self.recipe.steps]
        if all(state == "done" for state in states):
            return "done"
        last = next((job["status"] for job in jobs if job["task"] == "run"), "done")
        if last != "done":
            return str(last)
        return "empty" if all(state == "missing" for state in states) and not jobs else "partial"  # a run with a study

    def failure(self) -> dict[str, Any] | None:
        """The error of the last job, unless it ended well: "step", "message", "hint", "finished", "task", "status"."""
        for job in self._jobs()[:1]:
            if job["status"] in ("failed", "cancelled", "interrupted"):
                error = {"step": "", "message": "Cancelled.", "hint": "", **json.loads(job["error"] or "{}")}
                return error | {"finished": job["finished"], "task": job["task"], "status": job["status"]}
        return None

    def info(self, step: str) -> dict[str, Any] | None:
        """The record of a result: "fingerprint", "seconds", "cached", "versions" ...; None without a result."""
        return self.steps.info(step)

    def step_state(self, step: str, recipe: Recipe | None = None) -> str:
        """ "done" where the result is of `recipe`, by default the run's own; else "stale" or "missing"."""
        info = self.info(step)
        if info is None:
            return "missing"
        return "done" if info.get("fingerprint") == (recipe or self.recipe).fingerprint(step) else "stale"

    @property
    def steps(self) -> StepFolder:
        return StepFolder(self.folder)

    def model(self) -> ModelCard | None:
        result: ModelCard | None = self.steps.read("model")
        return result

    def calibration(self) -> CalibrationSelection | CalibrationSet | None:
        result: CalibrationSelection | CalibrationSet | None = self.steps.read("calibration")
        return result

    def saliency(self) -> Saliency | None:
        result: Saliency | None = self.steps.read("saliency")
        return result

    def plan(self) -> PruningPlan | None:
        result: PruningPlan | None = self.steps.read("allocation")
        return result

    def pruned(self) -> PruneSummary | None:
        result: PruneSummary | None = self.steps.read("prune")
        return result

    def recovery(self) -> RecoveryHistory | None:
        """The course of the recovery."""
        result: RecoveryHistory | None = self.steps.read("recover")
        return result

    def report(self) -> Report | None:
        result: Report | None = self.steps.read("evaluate")
        return result

    def continuations(self) -> list[Continuation]:
        """Continuations by the run's present models, oldest first."""
        return self.steps.continuations()

    def speed(self) -> SpeedReport | None:
        """The last timing of the run's present models."""
        found: SpeedReport | None = self.steps.attachment("speed")
        return found

    def sizes(self) -> Report | None:
        """The last measurement of quality against bytes of the run's present models and their quantised copies."""
        found: Report | None = self.steps.attachment("sizes")
        return found

    def sensitivity(self) -> Sensitivity | None:
        """The last sensitivity scan with the run's present scores."""
        found: Sensitivity | None = self.steps.attachment("sensitivity")
        return found

    def ablations(self) -> Ablations | None:
        """The last removals of single units with the run's present scores."""
        found: Ablations | None = self.steps.attachment("ablation")
        return found

    def removals(self) -> Ablations | None:
        """Units that were removed one by one on request, with the run's present scores."""
        found: Ablations | None = self.steps.attachment("removals")
        return found

    def inspections(self) -> UnitInspections | None:
        """Inspections of units of the run's model, with its present calibration set."""
        found: UnitInspections | None = self.steps.attachment("units")
        return found

    def costs(self) -> CostTables | None:
        """Cost tables of the run's present model."""
        found: CostTables | None = self.steps.attachment("costs")
        return found

    def plan_trials(self) -> PlanTrials | None:
        """Plans that were measured on request, with the run's present scores."""
        found: PlanTrials | None = self.steps.attachment("plans")
        return found

    def loss_curves(self) -> Sensitivity | None:
        """Loss curves that the measured allocation can use: those of the last scan, if they are compensated."""
        found = self.sensitivity()
        return found if found is not None and found.protocol.get("compensation") else None

    def attach(self, name: str, result: Attached) -> None:
        """Attach a result of one of `nirvana.runs.folder.ATTACHMENTS` to that which it was measured on.

        Raises:
            RunError: the run is the example, or lacks that result.
            NirvanaError: the disk is full.
        """
        self._check_own()
        self.steps.attach(name, result)

    def add_continuation(self, continuation: Continuation) -> None:
        """Attach a continuation to the models that generated it.

        Raises:
            RunError: the run is the example, or lacks a model that wrote it.
            NirvanaError: the disk is full.
        """
        self._check_own()
        self.steps.add_continuation(continuation)

    def put(self, step: str, result: Any, **info: Any) -> None:
        """Store a result with its record; the fingerprint is that of the run's recipe unless `info` has one.

        Raises:
            RunError: the run is the example, or was deleted meanwhile.
            NirvanaError: the disk is full.
        """
        index = self._check_own()
        content = FORMATS[step].write(result)
        record = {
            "fingerprint": self.recipe.fingerprint(step),
            "finished": time.time(),
            "cached": False,
            "versions": package_versions(),
        }
        with index.connect() as connection:  # its lock serialises writers of results
            if connection.execute("SELECT 1 FROM runs WHERE id = ?", (self.id,)).fetchone() is None:
                raise RunError(f"Run {self.id} was deleted.", "Start a new run.")
            self.steps.put(step, content, record | info)
        if step == "prune":
            for archive in self.folder.glob("*.zip"):  # of the model that was pruned before
                archive.unlink(missing_ok=True)

    def _check_own(self) -> Index:
        if self.index is None:
            raise RunError("The example run cannot be changed.", "Start a run of your own from it.")
        return self.index

    def _jobs(self) -> list[dict[str, Any]]:
        """Newest first: status, task, error and end of each job."""
        if self.index is None:
            return []
        query = "SELECT task, status, error, finished FROM jobs WHERE run_id = ? ORDER BY number DESC"
        return self.index.rows(query, self.id)


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Versions of the installed packages that results depend on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
