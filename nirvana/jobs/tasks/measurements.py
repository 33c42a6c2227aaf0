"""Tasks that measure a run's models and attach the result to the run: "speed", "sizes" and "sensitivity"."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from nirvana.compensation import METHODS
from nirvana.errors import RunError
from nirvana.jobs.task import Request, Task, require_pruned
from nirvana.loss_curves import LEVELS, PROBE
from nirvana.progress import Reporter
from nirvana.runs.run import Run
from nirvana.runs.speed import SizesRequest, SpeedRequest, measure_speeds, quality_against_bytes
from nirvana.schema import Distinct, Schema, option

if TYPE_CHECKING:
    from nirvana.evaluation.results import Report
    from nirvana.evaluation.speed_report import SpeedReport
    from nirvana.loss_curves import Sensitivity
    from nirvana.runs.model_cache import ModelCache
    from nirvana.runs.run import Attached
    from nirvana.runs.workspace import Workspace


class MeasurementTask(Task[Request], Generic[Request]):
    """A measurement in one step. The task's result is the measurement.

    `attachment`: name under which the run keeps it; by default the task's. `keeps_earlier`: the run keeps it together
    with earlier ones, by their `adding`.
    """

    attachment = ""
    keeps_earlier: ClassVar[bool] = False

    @abstractmethod
    def measure(self, workspace: Workspace, request: Request) -> Attached:
        """Measure the models of a run."""

    def perform(self, run: Run, request: Request, models: ModelCache, reporter: Reporter) -> dict[str, Any]:
        from nirvana.runs.workspace import Workspace

        reporter.step(self.name, 1, 1)
        found = self.measure(Workspace.of(run, models=models, progress=reporter.progress), request)
        if not run.is_example:
            name = self.attachment or self.name
            before = run.steps.attachment(name) if self.keeps_earlier else None
            run.attach(name, found if before is None else before.adding(found))
        return found.to_json()


class Speed(MeasurementTask[SpeedRequest]):
    """Time the dense and the pruned model in turns."""

    name = "speed"
    title = "Measuring speed"
    request = SpeedRequest
    reads_only = True

    def check(self, run: Run, request: SpeedRequest) -> None:
        require_pruned(run)
        card, length = run.model(), request.prompt + request.new_tokens
        positions = card.geometry.get("positions", length) if card else length
        if length > positions:
            raise RunError(
                f"{length:,} tokens are more than the model's {positions:,} positions.",
                "Use a shorter prompt, or fewer new tokens.",
            )

    def measure(self, workspace: Workspace, request: SpeedRequest) -> SpeedReport:
        return measure_speeds(workspace, request)


class Sizes(MeasurementTask[SizesRequest]):
    """Measure quality against bytes."""

    name = "sizes"
    title = "Measuring quality against bytes"
    request = SizesRequest
    reads_only = True

    def check(self, run: Run, request: SizesRequest) -> None:
        require_pruned(run)
        if not run.recipe.evaluation.corpora:
            raise RunError("There is no text to measure perplexity on.", "Choose one on the Compare page.")

    def measure(self, workspace: Workspace, request: SizesRequest) -> Report:
        return quality_against_bytes(workspace, request.schemes)


class ScanRequest(Schema):
    """Levels of the loss curves, the compensation, and the probe that they are measured on."""

    levels: Distinct[float] = option(
        (0.2,), "--level", "share of each module's units to prune; may be repeated", gt=0, lt=1
    )
    compensation: str = option(
        "none", "--curve-compensation", "compensation of each pruned module", choices=lambda: METHODS
    )
    samples: int = option(
        0, "--curve-samples", "probes that the curves are measured on; 0: the run's own", ge=0, le=4096
    )
    length: int = option(64, "--curve-length", "tokens in such a probe", ge=2, le=32_768)


LOSS_CURVES = ScanRequest(levels=LEVELS, compensation="least_squares", samples=PROBE[0], length=PROBE[1])


class Scan(MeasurementTask[ScanRequest]):
    """Prune each module alone, with the run's scores, at one level or several, and measure KL."""

    name = "sensitivity"
    title = "Sensitivity scan"
    request = ScanRequest

    def check(self, run: Run, request: ScanRequest) -> None:
        require_scores(run)

    def measure(self, workspace: Workspace, request: ScanRequest) -> Sensitivity:
        probe = (request.samples, request.length) if request.samples else None
        return workspace.loss_curves(request.levels, request.compensation, probe)  # type: ignore[arg-type]


def require_scores(run: Run) -> None:
    """Raises: RunError, where the run has no scores of its present choices."""
    if run.info("saliency") is None:
        raise RunError("There are no scores yet.", "Score the units first.")
    if run.step_state("saliency") != "done":
        raise RunError("The scores belong to earlier choices.", "Score the units again first.")
