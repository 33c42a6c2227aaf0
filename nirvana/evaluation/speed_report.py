"""Speed measurements: repeated timings of several models, with their protocol. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

METRICS = ("prefill", "decode", "first_token")


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity: median, quartiles, and all `values` in order."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, median, high = (float(value) for value in np.quantile(np.asarray(values, float), (0.25, 0.5, 0.75)))
        return cls(median, low, high, tuple(float(value) for value in values))


@dataclass(frozen=True)
class ModelSpeed:
    """Speed and memory of one model.

    Attributes:
        prefill: prompt tokens read a second.
        decode: new tokens generated a second, after the first.
        first_token: seconds until the first new token.
        memory_bytes: measured peak of weights, activations and cache where `memory_measured`; otherwise an estimate for
            weights and cache.
        file_bytes: of the weights in a file.
        prefill_flops: matrix products until the first new token.
        decode_flops: matrix products of all further ones.
        note: caveat of the model's numbers.
    """

    prefill: Spread
    decode: Spread
    first_token: Spread
    memory_bytes: int
    memory_measured: bool
    file_bytes: int
    parameters: int
    prefill_flops: int
    decode_flops: int
    dtype: str
    note: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelSpeed:
        spreads = {name: Spread(**{**data[name], "values": tuple(data[name]["values"])}) for name in METRICS}
        return cls(**{**data, **spreads})


@dataclass(frozen=True)
class SpeedReport:
    """Models measured in turns, in one process, after a warm-up turn of each.

    `models` keeps the order of the turns; the first is the baseline.
    """

    models: dict[str, ModelSpeed]
    batch: int
    prompt: int
    new_tokens: int
    repeats: int
    device: str
    threads: int

    def ratio(self, name: str, metric: str) -> Spread:
        """Speed of model `name` relative to the first, turn by turn, for "prefill", "decode" or "first_token".

        Turns of both are adjacent in time, so load on the machine has little effect.
        """
        first = getattr(next(iter(self.models.values())), metric).values
        own = getattr(self.models[name], metric).values
        pairs = zip(own, first, strict=True)
        return Spread.of([old / new if metric == "first_token" else new / old for new, old in pairs])

    def ideal(self, name: str, metric: str) -> float:
        """The ratio if time were proportional to the operations of matrix products."""
        counted = "decode_flops" if metric == "decode" else "prefill_flops"
        return float(getattr(next(iter(self.models.values())), counted) / getattr(self.models[name], counted))

    @property
    def protocol(self) -> str:
        """The protocol as a sentence."""
        dtypes = ", ".join(dict.fromkeys(speed.dtype for speed in self.models.values()))
        threads = f", {self.threads} thread{'' if self.threads == 1 else 's'}" if self.device.startswith("cpu") else ""
        return (
            f"Batch {self.batch}, prompt of {self.prompt:,} random tokens, {self.new_tokens:,} new tokens, greedy. "
            f"{self.repeats} turns of each model, alternating in one process, after a warm-up turn of each. "
            f"{dtypes} on {self.device}{threads}."
        )

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SpeedReport:
        models = {name: ModelSpeed.from_json(item) for name, item in data["models"].items()}
        kept = {item.name: data[item.name] for item in fields(cls)}
        return cls(**{**kept, "models": models})
