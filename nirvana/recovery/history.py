"""Course of a recovery: training steps and measurements on held-out text. No torch, so that pages can read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nirvana.errors import RecoveryError
from nirvana.files import well_formed

STATE_FILE = "recovery.json"  # of a saved state; it has the history so far
PART = 0.02  # share by which a text gets worse again while another improves


@dataclass(frozen=True)
class Step:
    """One optimiser step. `loss` in nats a token; `seconds` of training and measuring since the start."""

    step: int
    tokens: int
    seconds: float
    loss: float
    learning_rate: float
    gradient_norm: float


@dataclass(frozen=True)
class Check:
    """A measurement after `step` steps: perplexity and, with a teacher, KL( dense || pruned ) by held-out text."""

    step: int
    tokens: int
    seconds: float
    perplexity: dict[str, float]
    kl: dict[str, float] = field(default_factory=dict)

    def mean(self, metric: str) -> float:
        """Mean over texts of "kl", or of the logarithms of "perplexity"."""
        values = self.kl.values() if metric == "kl" else map(math.log, self.perplexity.values())
        return math.fsum(values) / len(self.perplexity)


@dataclass
class RecoveryHistory:
    """`steps` and `checks` in order, the first check before training.

    `protocol` has the options, texts and models, and in "best_by" the metric that chooses the best check: "kl" for
    distillation, else "perplexity". `stopped` is why training ended before its budget; empty where it did not. `dense`
    is the teacher's perplexity by held-out text; empty without a teacher.
    """

    protocol: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    stopped: str = ""
    dense: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> Check:
        """The check whose weights are kept: the one with the lowest mean over texts."""
        return min(self.checks, key=lambda check: check.mean(str(self.protocol.get("best_by", "perplexity"))))

    @property
    def record(self) -> dict[str, Any]:
        """The record of the recovery in a checkpoint, as JSON values."""
        noted = {name: self.protocol.get(name) for name in ("options", "text", "text_hash")}
        method = (noted["options"] or {}).get("method")
        best = self.best
        return {"method": method, **noted, "step": best.step, "tokens": best.tokens, "seconds": best.seconds}

    @property
    def overfitted(self) -> list[str]:
        """Texts that got worse again by 2 % since their best check while another is at its best."""
        if len(self.checks) < 3:
            return []
        last, lowest = self.checks[-1].perplexity, dict[str, float]()
        for check in self.checks:
            for name, value in check.perplexity.items():
                lowest[name] = min(value, lowest.get(name, math.inf))
        worse = [name for name, value in last.items() if value > lowest[name] * (1 + PART)]
        return worse if len(worse) < len(last) else []

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RecoveryHistory:
        """Read what `to_json` wrote.

        Raises:
            RecoveryError: it is something else.
        """
        with well_formed("This is no saved recovery", RecoveryError, "Recover the model again."):
            steps = [Step(**each) for each in data["steps"]]
            checks, dense = [Check(**each) for each in data["checks"]], dict(data.get("dense", {}))
            return cls(dict(data["protocol"]), steps, checks, str(data["stopped"]), dense)
