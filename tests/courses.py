"""Made-up courses of recoveries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nirvana.recovery.history import Check, RecoveryHistory, Step
from nirvana.recovery.options import RecoveryOptions


def course(ratios: Sequence[tuple[float, float]] = ((1.5, 1.6), (1.3, 1.4), (1.2, 1.3))) -> RecoveryHistory:
    """A course of 10 steps between checks, with perplexities of two texts over those of the dense model."""
    dense = {"python-docs": 20.0, "library-docs": 30.0}
    count = 10 * (len(ratios) - 1)
    steps = [Step(n, 256 * n, 2.0 * n, 1 / n, 1e-4, 0.5) for n in range(1, count + 1)]
    checks = [
        Check(
            10 * place,
            2560 * place,
            20.0 * place + 1,
            {name: ratio * dense[name] for name, ratio in zip(dense, pair, strict=True)},
            {name: ratio - 1 for name, ratio in zip(dense, pair, strict=True)},
        )
        for place, pair in enumerate(ratios)
    ]
    options = RecoveryOptions(minutes=5.0).to_json()
    protocol: dict[str, Any] = {
        "options": options,
        "best_by": "kl",
        "text": "python-docs",
        "text_hash": "cd" * 32,
        "model": "ef" * 32,
    }
    protocol |= {
        "held_out": dict.fromkeys(dense, "ab"),
        "split": "probe",
        "windows": 8,
        "window": 256,
        "learning_rate": 3e-4,
    }
    return RecoveryHistory(protocol, steps, checks, dense=dense)
