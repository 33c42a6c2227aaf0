"""Options of a recovery. No torch."""

from __future__ import annotations

from typing import ClassVar

from nirvana.errors import NirvanaError, RecoveryError
from nirvana.schema import Schema, option

METHODS = ("distill", "lora", "full")


class RecoveryOptions(Schema):
    """Objective, budget and optimiser of a recovery.

    `method`: "distill" minimises KL( dense || pruned ) of the next-token distributions, with all weights or, with a
    rank, with adapters; "lora" trains adapters on the language-modelling loss, by default with the settings published
    by NIRVANA and LLM-Pruner (rank 8, alpha 16, dropout 0.05, learning rate 1e-4); "full" all weights on that loss.
    """

    section: ClassVar[str] = "recovery"
    error: ClassVar[type[NirvanaError]] = RecoveryError

    method: str = option("distill", "--recovery", "objective of the recovery", choices=lambda: METHODS)
    minutes: float = option(20.0, "--recovery-minutes", "time budget; 0 for the token budget", ge=0, le=100_000)
    tokens: int = option(0, "--recovery-tokens", "token budget; 0 for the time budget alone", ge=0, le=1 << 50)
    learning_rate: float = option(1e-4, "--learning-rate", "peak learning rate of AdamW", gt=0, lt=1)
    warmup: int = option(10, "--warmup", "steps until the peak learning rate", ge=0, le=1_000_000)
    batch: int = option(8, "--batch", "windows in a step", ge=1, le=4_096)
    micro_batch: int = option(4, "--micro-batch", "windows in a forward pass", ge=1, le=4_096)
    length: int = option(256, "--recovery-length", "tokens in a window", ge=8, le=32_768)
    clip: float = option(1.0, "--clip", "maximum norm of a gradient", gt=0, lt=1e6)
    rank: int = option(0, "--rank", "rank of the adapters; 0 trains all weights, and 8 with lora", ge=0, le=1_024)
    alpha: int = option(16, "--alpha", "scale of the adapters times their rank", ge=1, le=65_536)
    dropout: float = option(0.05, "--dropout", "dropout before the adapters", ge=0, lt=1)
    autocast: str = option(
        "auto",
        "--autocast",
        "bfloat16 matrix products: whichever is faster, always or never",
        choices=lambda: ("auto", "bfloat16", "never"),
    )
    checks: int = option(8, "--checks", "measurements on held-out text within the budget", ge=1, le=1_000)
    seed: int = option(0, "--recovery-seed", "seed of the windows, their order and dropout", ge=0, le=2**31)

    @property
    def adapter_rank(self) -> int:
        """Rank of the adapters; 0 where all weights are trained."""
        return 8 if self.method == "lora" and not self.rank else self.rank

    def check(self) -> None:
        """Check that there is one budget.

        Raises:
            RecoveryError: there is none.
        """
        if not self.minutes and not self.tokens:
            raise RecoveryError("The recovery has no budget.", "Give minutes or tokens.")
