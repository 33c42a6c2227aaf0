"""Measured KL of plans of one model, beside what scores and loss curves predict. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nirvana.errors import PlanError
from nirvana.files import well_formed, whole_number
from nirvana.plan import PruningPlan


class PlanTrial(NamedTuple):
    """One plan, pruned and measured.

    Attributes:
        plan: hash of its kept units.
        allocation: the rule in words, e.g. "20 %, gamma 3.36".
        edits: those made by hand.
        compensation: of the pruned model, in words, e.g. "none".
        sparsity: removed over prunable parameters.
        parameters: of the pruned model.
        removed_score: share of the summed scores that it removes.
        predicted: KL by loss curves, or None without any.
        kl: KL( dense || pruned ) of each sample of the probe, nats per token.
    """

    plan: str
    allocation: str
    edits: tuple[str, ...]
    compensation: str
    sparsity: float
    parameters: int
    removed_score: float
    predicted: float | None
    kl: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean KL, nats per token."""
        return float(np.mean(self.kl))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over samples; NaN for one sample."""
        return _error(np.asarray(self.kl))

    def less(self, other: PlanTrial) -> tuple[float, float]:
        """Mean difference of KL from another plan on the same probe, and its standard error over samples."""
        gaps = np.asarray(self.kl) - np.asarray(other.kl)
        return float(gaps.mean()), _error(gaps)

    def to_json(self) -> dict[str, Any]:
        return self._asdict() | {"edits": list(self.edits), "kl": list(self.kl)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanTrial:
        predicted = data["predicted"]
        return cls(
            plan=str(data["plan"]),
            allocation=str(data["allocation"]),
            edits=tuple(map(str, data["edits"])),
            compensation=str(data["compensation"]),
            sparsity=float(data["sparsity"]),
            parameters=whole_number(data["parameters"]),
            removed_score=float(data["removed_score"]),
            predicted=None if predicted is None else float(predicted),
            kl=tuple(map(float, data["kl"])),
        )


@dataclass(frozen=True, eq=False)
class PlanTrials:
    """Measured plans of one model, oldest first.

    `protocol`: hashes of model, scores and probe, its samples and length, text, device and dtype.
    """

    items: tuple[PlanTrial, ...]
    protocol: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in self.items:
            if not item.kl or not np.isfinite(item.kl).all() or len(item.kl) != len(self.items[0].kl):
                raise PlanError("These plans were not measured on one probe.", "Measure them again.")

    def of(self, plan: PruningPlan, compensation: str) -> PlanTrial | None:
        """The measurement of a plan, or None."""
        wanted = plan.hash, compensation
        return next((item for item in self.items if (item.plan, item.compensation) == wanted), None)

    def adding(self, new: PlanTrials) -> PlanTrials:
        """These plans and `new` ones, which replace equal ones; only `new` ones if the protocols differ."""
        if self.protocol != new.protocol:
            return new
        replaced = {(item.plan, item.compensation) for item in new.items}
        kept = [item for item in self.items if (item.plan, item.compensation) not in replaced]
        return PlanTrials((*kept, *new.items), dict(new.protocol))

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, "protocol": dict(self.protocol), "items": [item.to_json() for item in self.items]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanTrials:
        """Read what `to_json` wrote.

        Raises:
            PlanError: it is something else.
        """
        with well_formed("These are no measured plans", PlanError, "Measure them again."):
            return cls(tuple(map(PlanTrial.from_json, data["items"])), dict(data["protocol"]))


def distinct(plans: Iterable[PruningPlan]) -> list[PruningPlan]:
    """Plans with different kept units, in order."""
    return list({plan.hash: plan for plan in plans}.values())


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
