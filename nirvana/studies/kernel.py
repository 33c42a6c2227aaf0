"""Kernel study: the paper's claim that the tangent kernel moves by the order of the pruned saliency, measured.

Every criterion prunes at growing sparsities with the same allocation; the shift is measured on windows of the probe
split, which calibrate nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nirvana.errors import PlanError, SaliencyError
from nirvana.progress import ProgressCallback, within
from nirvana.runs.recipe import LAST_SEED, STEPS
from nirvana.runs.run import Run
from nirvana.runs.validation import check_recipe
from nirvana.saliency.criteria import available
from nirvana.schema import Distinct, Schema, option
from nirvana.studies.journal import as_read_back
from nirvana.studies.kernel_rows import FILE, KernelRow, shared_recipe
from nirvana.studies.session import Session
from nirvana.studies.study import Study
from nirvana.studies.sweep_grid import Point, check_size

if TYPE_CHECKING:
    from nirvana.evaluation.tangent_kernel import Gradients
    from nirvana.runs.model_cache import ModelCache


class KernelRequest(Schema):
    """Criteria and sparsities to prune with, and the inputs of the kernel."""

    criteria: Distinct[str] = option(
        ("nirvana", "taylor", "magnitude", "random"),
        "--criterion",
        "criterion; may be repeated",
        choices=available,
        error=SaliencyError,
    )
    sparsities: Distinct[float] = option(
        (0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        "--sparsity",
        "share of attention and MLP weights to remove; may be repeated",
        gt=0,
        lt=1,
        error=PlanError,
    )
    seeds: Distinct[int] = option(
        (0,),
        "--seed",
        "seed of the calibration set and of random scores; may be repeated",
        ge=0,
        le=LAST_SEED // 2,
    )
    samples: int = option(8, "--inputs", "held-out windows, each an input of its own", ge=1, le=1024)
    length: int = option(128, "--input-length", "tokens in such a window", ge=2, le=32_768)

    def points(self, gamma: float) -> list[Point]:
        """Every combination, so that plans of one criterion and seed share their scores."""
        return [
            Point(seed, criterion, "shared", sparsity, "none", gamma)
            for seed in self.seeds
            for criterion in self.criteria
            for sparsity in self.sparsities
        ]

    def check(self) -> None:
        """Validate the request as a whole.

        Raises:
            RunError: a list is empty, or there are more than 400 points.
        """
        check_size(self, "study", len(self.points(1.0)), "Choose fewer criteria or sparsities.")


class Kernel(Study[KernelRequest]):
    """The shift of the tangent kernel at growing sparsities, by criterion."""

    name, title, file, request = "kernel", "Kernel study", FILE, KernelRequest

    def check(self, run: Run, request: KernelRequest) -> None:
        super().check(run, request)
        request.check()
        check_recipe(shared_recipe(run.recipe), STEPS[:4])

    def open(self, run: Run, request: KernelRequest, models: ModelCache, progress: ProgressCallback | None) -> _Session:
        return _Session(run, request, models, progress)


class _Session(Session[Point, KernelRow]):
    """The plans of one request, measured on one set of inputs."""

    def __init__(self, run: Run, request: KernelRequest, models: ModelCache, progress: ProgressCallback | None) -> None:
        from nirvana.runs.model_cache import cache_fields
        from nirvana.runs.workspace import Workspace

        shared = shared_recipe(run.recipe)
        self._base, self._workspace = run.recipe, Workspace(shared, models=models, progress=progress)
        lm = self._workspace.lm
        self._inputs = self._workspace.draw_probe(request.samples, request.length)
        self._dense: Gradients | None = None
        self._tried: set[Point] = set()
        self.points = request.points(run.recipe.allocation.gamma)
        recipe = shared.to_json()
        drawn = {name: recipe["calibration"][name] for name in ("samples", "length", "probe_seed", "task")}
        settings: dict[str, Any] = {
            "recipe": {"model": recipe["model"], "calibration": drawn, "allocation": recipe["allocation"]},
            "hashes": {corpus.name: corpus.hash for corpus in self._workspace.texts()},
            "inputs": {"samples": request.samples, "length": self._inputs.outputs.shape[1], "hash": self._inputs.hash},
            "note": lm.source.note,
            **cache_fields(lm),
        }
        del settings["recipe"]["allocation"]["sparsity"]  # of each point
        self.settings: dict[str, Any] = as_read_back(settings)

    def read(self, data: dict[str, Any]) -> KernelRow:
        return KernelRow.from_json(data)

    def next(self, rows: Sequence[KernelRow]) -> Point | None:
        done = {row.point for row in rows if not row.failure} | self._tried
        return next((point for point in self.points if point not in done), None)

    def place(self, point: Point, rows: Sequence[KernelRow]) -> tuple[str, int, int]:
        return point.label, self.points.index(point) + 1, len(self.points)

    def measure(self, point: Point, progress: ProgressCallback | None) -> KernelRow:
        from nirvana.evaluation.tangent_kernel import kernel_shift, output_gradients

        self._tried.add(point)
        lm, variant = self._workspace.lm, self._workspace.variant(point.recipe(self._base))
        plan = variant.plan(within(progress, "Scores", 0, 3))
        if self._dense is None:
            self._dense = output_gradients(lm, self._inputs, progress=within(progress, "Dense model", 1, 3))
        last = within(progress, "Kernel", 2, 3)
        return KernelRow(point, kernel_shift(lm, plan, self._inputs, dense=self._dense, progress=last))

    def failed(self, point: Point, failure: str) -> KernelRow:
        return KernelRow(point, failure=failure)

    def release(self) -> None:
        self._workspace.clear()
