"""Tasks on single units of a run's model: "ablation" removes a draw of them, "ablate-unit" one; "inspect-unit" finds
what drives one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.errors import PlanError
from nirvana.evaluation.ablation_results import Ablations, in_model_order
from nirvana.files import well_formed
from nirvana.jobs.task import Task
from nirvana.jobs.tasks.measurements import MeasurementTask, require_scores
from nirvana.layout import Site
from nirvana.progress import Reporter
from nirvana.runs.recipe import LAST_SEED
from nirvana.runs.run import Run
from nirvana.schema import Schema, option

if TYPE_CHECKING:
    from nirvana.calibration.sets import CalibrationSet
    from nirvana.runs.model_cache import ModelCache
    from nirvana.runs.workspace import Workspace


class Inputs(Schema):
    """Windows of the probe split, on which the output, its gradient and KL are measured."""

    samples: int = option(8, "--inputs", "held-out windows", ge=1, le=1024)
    length: int = option(128, "--input-length", "tokens in such a window", ge=2, le=32_768)

    def draw(self, workspace: Workspace) -> CalibrationSet:
        """The windows, cut to the model's positions."""
        return workspace.draw_probe(self.samples, self.length)


class AblationRequest(Inputs):
    """The number of units to remove one by one, and the seed of their draw."""

    count: int = option(300, "--count", "units to remove one by one, from all ranks of each kind", ge=1, le=100_000)
    seed: int = option(0, "--draw-seed", "seed of the draw of units", ge=0, le=LAST_SEED)


class AblateUnits(MeasurementTask[AblationRequest]):
    """Remove a few hundred units one by one, and attach their effects to the run."""

    name = "ablation"
    title = "Removing units one by one"
    request = AblationRequest

    def check(self, run: Run, request: AblationRequest) -> None:
        require_scores(run)

    def measure(self, workspace: Workspace, request: AblationRequest) -> Ablations:
        from nirvana.evaluation.ablation import ablate_units

        return ablate_units(
            workspace.lm,
            workspace.saliency(),
            request.draw(workspace),
            count=request.count,
            seed=request.seed,
            progress=workspace.progress,
        )


class UnitChoice(Schema):
    """One unit, e.g. number 7 of the site "decoder.5.mlp"."""

    site: str = option("", "--site", "module, e.g. decoder.5.mlp")
    unit: int = option(0, "--unit", "number of the unit in it, from 0", ge=0, le=1 << 24)


class UnitRequest(Inputs, UnitChoice):
    """One unit to remove, and the windows on which its removal is measured."""


class AblateUnit(Task[UnitRequest]):
    """Remove one unit; the result is that of a draw with this unit alone. The run keeps it with those of others."""

    name = "ablate-unit"
    title = "Removing one unit"
    request = UnitRequest
    reads_only = True

    def check(self, run: Run, request: UnitRequest) -> None:
        require_scores(run)
        check_unit(run, request)

    def perform(self, run: Run, request: UnitRequest, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        from nirvana.evaluation.ablation import ablate_units
        from nirvana.runs.workspace import Workspace

        reporter.step(self.name, 1, 1)
        workspace = Workspace.of(run, models=models, progress=reporter.progress)
        units, x = [(_site(request.site), request.unit)], request.draw(workspace)
        found = ablate_units(workspace.lm, workspace.saliency(), x, units=units, progress=reporter.progress)
        if not run.is_example:
            before = run.removals()
            run.attach("removals", found if before is None else before.adding(found))
        return found.to_json()


class InspectUnit(Task[UnitChoice]):
    """Find the calibration tokens that drive one unit. The run keeps the result with those of other units."""

    name = "inspect-unit"
    title = "Inspecting one unit"
    request = UnitChoice
    reads_only = True

    def check(self, run: Run, request: UnitChoice) -> None:
        require_scores(run)
        check_unit(run, request)

    def perform(self, run: Run, request: UnitChoice, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        from nirvana.evaluation.unit_inspection import inspect_units
        from nirvana.runs.workspace import Workspace

        reporter.step(self.name, 1, 1)
        workspace = Workspace.of(run, models=models, progress=reporter.progress)
        units, x = [(_site(request.site), request.unit)], workspace.calibration_set()
        found = inspect_units(workspace.lm, x, units, progress=reporter.progress)
        if not run.is_example:
            before = run.inspections()
            run.attach("units", found if before is None else before.adding(found))
        return found.to_json()


def check_unit(run: Run, request: UnitChoice | UnitRequest) -> None:
    """Raises: PlanError, where the run's model has no such unit."""
    site, card = _site(request.site), run.model()
    if card is not None:
        in_model_order(card.layout, [(site, request.unit)])


def _site(key: str) -> Site:
    with well_formed(f"{key[:60]!r} names no module", PlanError, "Name one such as decoder.0.mlp."):
        return Site.from_key(key)
