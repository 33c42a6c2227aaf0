"""Models in memory between steps and jobs: one dense model, the last one pruned from it, and that one recovered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from nirvana.compensation import Compensation
from nirvana.errors import ModelError
from nirvana.files import json_hash, local_path
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback
from nirvana.runs.pace import record_loading
from nirvana.runs.recipe import ModelChoice

if TYPE_CHECKING:
    from nirvana.compensation.statistics import Statistics
    from nirvana.models.lm import LM


class ModelCache:
    """Keeps one dense model, one pruned from it and that one recovered; a request for another model replaces them."""

    def __init__(self) -> None:
        self._dense: LM | None = None
        self._choice: tuple[Any, ...] = ()
        self._pruned: LM | None = None
        self._plan = ""
        self._recovered: LM | None = None
        self._recovery = ""

    def dense(self, choice: ModelChoice, progress: ProgressCallback | None = None) -> LM:
        """The model of `choice`, loaded where needed, also if its files changed.

        Raises:
            ModelError: it cannot be found, read or fitted in memory.
        """
        from nirvana.models.loading import load_model

        wanted = (choice, _stamp(choice.name))
        if self._dense is None or self._choice != wanted:
            self.clear()
            start = time.perf_counter()
            self._dense = load_model(**choice.to_json(), progress=progress)
            self._choice = wanted
            record_loading(choice, self._dense, time.perf_counter() - start)
        return self._dense

    def pruned(
        self,
        lm: LM,
        plan: PruningPlan,
        *,
        compensation: str = "none",
        statistics: Callable[[], Statistics] | None = None,
        source: Any = None,
        progress: ProgressCallback | None = None,
    ) -> LM:
        """`lm` pruned by `plan`.

        Args:
            compensation: see `nirvana.prune`.
            statistics: returns the statistics of the compensation; called if the model is not in memory.
            source: identifies these statistics, as a JSON value.
            progress: called while the model is pruned.

        Raises:
            PlanError: the plan was made for a model of another shape.
            CompensationError: the compensation is unknown, or the statistics do not suit it.
        """
        from nirvana.surgery import prune

        place = [lm.hash, str(lm.device), str(lm.dtype)]
        wanted = json_hash([*place, plan.to_json(), compensation, source])
        if self._pruned is None or self._plan != wanted:
            self.drop_pruned()
            found = statistics() if statistics is not None else None
            self._pruned = prune(
                lm, plan, compensation=cast(Compensation, compensation), statistics=found, progress=progress
            )
            self._plan = wanted
        return self._pruned

    def recovered(self, small: LM, key: str, load: Callable[[], LM]) -> LM:
        """The recovered model of `small` that `key` names, by `load` where it is not in memory."""
        wanted = json_hash([small.hash, key])
        if self._recovered is None or self._recovery != wanted:
            self._drop_recovered()
            self._recovered, self._recovery = load(), wanted
        return self._recovered

    def clear(self) -> None:
        """Unload all models and release their memory."""
        self.drop_pruned()
        if self._dense is not None:
            self._dense.unload()
        self._dense = None

    def resident(self) -> list[dict[str, Any]]:
        """The models in memory: "model", its name, and "bytes" of its weights there."""
        held = [(self._dense, ""), (self._pruned, ", pruned"), (self._recovered, ", recovered")]
        return [
            {"model": lm.source.name + suffix, "bytes": lm.sizes.resident(lm.device.type)}
            for lm, suffix in held
            if lm is not None
        ]

    def drop_pruned(self) -> None:
        """Drop the pruned model, and the recovered one, and release their memory."""
        self._drop_recovered()
        if self._pruned is not None:
            self._pruned.unload()
        self._pruned = None

    def _drop_recovered(self) -> None:
        if self._recovered is not None:
            self._recovered.unload()
        self._recovered = None


def placement(lm: LM) -> dict[str, str]:
    """Device and dtype of a model, as text for the records of its results."""
    return {"device": str(lm.device), "dtype": str(lm.dtype).removeprefix("torch.")}


def cache_fields(lm: LM) -> dict[str, str]:
    """Cache-key fields of a model: weights, dtype and kind of device."""
    return {"weights": lm.hash, "dtype": str(lm.dtype), "device": lm.device.type}


def _stamp(name: str) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of a local model's files; empty for built-in names and hub ids."""
    path = local_path(name, ModelError)
    files = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    found = [(file.name, file.stat()) for file in files]
    return tuple((file, status.st_mtime_ns, status.st_size) for file, status in found)
