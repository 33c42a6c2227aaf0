"""The task "costs": seconds of the modules of a run's model by their size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nirvana.costs import CostTables
from nirvana.errors import RunError
from nirvana.jobs.tasks.measurements import MeasurementTask
from nirvana.progress import within
from nirvana.runs.costs import CostRequest, cached_costs
from nirvana.runs.run import Run

if TYPE_CHECKING:
    from nirvana.runs.workspace import Workspace


class Costs(MeasurementTask[CostRequest]):
    """Measure a cost table for each phase, once for a device and a shape of model. The run keeps all of them."""

    name = "costs"
    title = "Measuring costs"
    request = CostRequest
    reads_only = True
    keeps_earlier = True

    def check(self, run: Run, request: CostRequest) -> None:
        card = run.model()
        if card is None:
            raise RunError("There is no model yet.", "Load the model first.")
        positions = card.geometry.get("positions", request.length)
        if request.length > positions:
            raise RunError(
                f"{request.length:,} tokens are more than the model's {positions:,} positions.", "Use fewer tokens."
            )

    def measure(self, workspace: Workspace, request: CostRequest) -> CostTables:
        lm, progress = workspace.lm, workspace.progress
        how = {"batch": request.batch, "length": request.length, "repeats": request.repeats}
        return CostTables(
            tuple(
                cached_costs(lm, phase=phase, **how, progress=within(progress, phase, part, len(request.phases)))
                for part, phase in enumerate(request.phases)
            )
        )
