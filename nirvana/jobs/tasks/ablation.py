"""Tasks on single units of a run's model: "ablation" removes a draw of them, "ablate-unit" one; "inspect-unit" finds
what drives one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nirvana.errors import PlanError
from nirvana.evaluation.ablation_results import Ablations, in_model_order
from nirvana.files import well_formed
from nirvana.jobs.task import Request
from nirvana.jobs.tasks.measurements import MeasurementTask, require_scores
from nirvana.layout import Site
from nirvana.runs.recipe import LAST_SEED
from nirvana.runs.run import Run
from nirvana.schema import Schema, option

if TYPE_CHECKING:
    from nirvana.calibration.sets import CalibrationSet
    from nirvana.evaluation.unit_inspection_results import UnitInspections
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


class UnitTask(MeasurementTask[Request]):
    """A measurement of one unit. The run keeps it with those of other units."""

    reads_only = True
    keeps_earlier = True

    def check(self, run: Run, request: Request) -> None:
        """Raises: PlanError, where the run's model has no such unit."""
        require_scores(run)
        card = run.model()
        units = chosen(request)
        if card is not None:
            in_model_order(card.layout, units)


class AblateUnit(UnitTask[UnitRequest]):
    """Remove one unit; the result is that of a draw with this unit alone."""

    name = "ablate-unit"
    title = "Removing one unit"
    attachment = "removals"
    request = UnitRequest

    def measure(self, workspace: Workspace, request: UnitRequest) -> Ablations:
        from nirvana.evaluation.ablation import ablate_units

        x = request.draw(workspace)
        return ablate_units(workspace.lm, workspace.saliency(), x, units=chosen(request), progress=workspace.progress)


class InspectUnit(UnitTask[UnitChoice]):
    """Find the calibration tokens that drive one unit."""

    name = "inspect-unit"
    title = "Inspecting one unit"
    attachment = "units"
    request = UnitChoice

    def measure(self, workspace: Workspace, request: UnitChoice) -> UnitInspections:
        from nirvana.evaluation.unit_inspection import inspect_units

        return inspect_units(workspace.lm, workspace.calibration_set(), chosen(request), progress=workspace.progress)


def chosen(request: Any) -> list[tuple[Site, int]]:
    """The unit of a `UnitChoice`."""
    with well_formed(f"{request.site[:60]!r} names no module", PlanError, "Name one such as decoder.0.mlp."):
        return [(Site.from_key(request.site), request.unit)]
