"""Estimates as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

MEASURED, PREDICTED = "measured pace", "predicted"


@dataclass(frozen=True)
class Memory:
    """Bytes at one moment, by part; `peak` is their sum.

    Attributes:
        weights: of all models in memory, with copies in training.
        activations: of blocks, those kept for a backward pass included.
        logits: with their probabilities and gradients, and the dense model's that are kept for a divergence.
        gradients: of weights, and the optimiser's moments.
        statistics: second moments, and the matrices of closed forms.
        hidden_states: between blocks.
        other: tokenizer, allocator, and the buffers of single operations.
    """

    weights: int = 0
    activations: int = 0
    logits: int = 0
    gradients: int = 0
    statistics: int = 0
    hidden_states: int = 0
    other: int = 0

    @property
    def peak(self) -> int:
        return sum(vars(self).values())

    def __add__(self, more: Memory) -> Memory:
        return Memory(*(mine + getattr(more, name) for name, mine in vars(self).items()))


@dataclass(frozen=True)
class StepEstimate:
    """Predicted memory and time of one step.

    Attributes:
        step: one of `nirvana.estimation.estimate.STEPS`.
        variant: the choice that decides its cost, e.g. "nirvana, recompute".
        memory: on the device that computes, at the peak.
        host: bytes in the system's memory where that is another one; else 0.
        flops: floating-point operations; 0 where it is reading and copying.
        seconds: None where neither a pace nor the device's speed is known.
        basis: of `seconds`: "measured pace" on this machine, or "predicted" from the device's speed.
        settings: what else was chosen, e.g. {"micro_batch": 2}.
    """

    step: str
    variant: str
    memory: Memory
    host: int = 0
    flops: float = 0.0
    seconds: float | None = None
    basis: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """E.g. "score: nirvana, recompute"."""
        return f"{self.step}: {self.variant}" if self.variant else self.step

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "peak": self.memory.peak}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StepEstimate:
        known = {each.name: data[each.name] for each in fields(cls) if each.name in data}
        return cls(**{**known, "memory": Memory(**data["memory"])})


@dataclass(frozen=True)
class Estimate:
    """Predictions of some steps of one model on one kind of device."""

    model: str
    device: str
    dtype: str
    weights: str  # "memory" or "lazy"
    parameters: int
    steps: tuple[StepEstimate, ...]

    @property
    def peak(self) -> int:
        """Bytes of the step that needs most on the device."""
        return max((step.memory.peak for step in self.steps), default=0)

    def of(self, step: str) -> tuple[StepEstimate, ...]:
        """The variants of one step."""
        return tuple(each for each in self.steps if each.step == step)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "peak": self.peak, "steps": [step.to_json() for step in self.steps]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Estimate:
        known = {each.name: data[each.name] for each in fields(cls)}
        return cls(**{**known, "steps": tuple(map(StepEstimate.from_json, data["steps"]))})


def largest(phases: Iterable[Memory]) -> Memory:
    """The phase with the highest peak."""
    return max(phases, key=lambda phase: phase.peak)
