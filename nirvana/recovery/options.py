"""Options of a recovery. No torch."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from nirvana.errors import NirvanaError, RecoveryError
from nirvana.schema import Schema, option

METHODS = ("distill", "lora", "full")
ADAPTER_RATE = 1e-4  # as published
# Measured on SmolLM2-135M (width 576), where 1e-4 with steps of 2,048 tokens, and 2e-4 to 4e-4 with 1,024, were tried.
RATE_TIMES_WIDTH = 0.1

# NIRVANA's post-training of Llama-3.1-8B on Alpaca. The adapters are those of LLM-Pruner, which has 100 warm-up steps,
# steps of 64 windows and windows of 256 tokens.
PUBLISHED: dict[str, Any] = {
    "method": "lora",
    "rank": 8,
    "alpha": 16,
    "dropout": 0.05,
    "learning_rate": 1e-4,
    "warmup": 50,
    "decay": "linear",
    "minutes": 0.0,
    "epochs": 2,
    "batch": 16,
    "micro_batch": 2,
    "length": 2_048,
    "prompts": "masked",
}


class RecoveryOptions(Schema):
    """Objective, budget and optimiser of a recovery.

    `method`: "distill" minimises KL( dense || pruned ) of the next-token distributions, with all weights or, with a
    rank, with adapters; "lora" trains adapters on the language-modelling loss, by default with the adapters published
    by NIRVANA and LLM-Pruner (rank 8, alpha 16, dropout 0.05, learning rate 1e-4); "full" all weights on that loss.
    All weights need a lower rate the wider the model is.

    Training ends with the first of the budgets that are not 0. An epoch is all windows, or all records of instructions,
    of the calibration split once; without epochs windows are drawn at random.
    """

    section: ClassVar[str] = "recovery"
    error: ClassVar[type[NirvanaError]] = RecoveryError

    method: str = option("distill", "--recovery", "objective of the recovery", choices=lambda: METHODS)
    minutes: float = option(20.0, "--recovery-minutes", "time budget; 0 for none", ge=0, le=100_000)
    tokens: int = option(0, "--recovery-tokens", "token budget; 0 for none", ge=0, le=1 << 50)
    epochs: int = option(0, "--epochs", "passes over the text; 0 for no such budget", ge=0, le=10_000)
    learning_rate: float = option(
        0.0,
        "--learning-rate",
        "peak learning rate of AdamW; 0 for 0.1 over the hidden width, or 0.0001 with adapters",
        ge=0,
        lt=1,
    )
    warmup: int = option(20, "--warmup", "steps until the peak learning rate", ge=0, le=1_000_000)
    decay: str = option(
        "cosine", "--decay", "fall of the learning rate to 0 over the budget", choices=lambda: ("cosine", "linear")
    )
    batch: int = option(4, "--batch", "windows in a step", ge=1, le=4_096)
    micro_batch: int = option(4, "--micro-batch", "windows in a forward pass", ge=1, le=4_096)
    length: int = option(256, "--recovery-length", "tokens in a window, at most in a record", ge=8, le=32_768)
    prompts: str = option(
        "masked",
        "--prompts",
        "prompts of instructions in the loss",
        choices=lambda: ("masked", "counted"),
    )
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
    checkpointing: str = option(
        "auto",
        "--checkpointing",
        "activations computed again in the backward pass: where memory is short, always or never",
        choices=lambda: ("auto", "always", "never"),
    )
    checks: int = option(8, "--checks", "measurements on held-out text within the budget", ge=1, le=1_000)
    seed: int = option(0, "--recovery-seed", "seed of the windows, their order and dropout", ge=0, le=2**31)

    @classmethod
    def published(cls, **values: Any) -> Self:
        """The settings of NIRVANA's recovery, with `values` in place of some; the text should be instructions.

        They differ from its script in the second moment's rate of AdamW (0.95, not 0.999) and in the share of the
        records that is trained on: the calibration split, so that the other splits stay held out.
        """
        return cls(**PUBLISHED | values)

    @property
    def adapter_rank(self) -> int:
        """Rank of the adapters; 0 where all weights are trained."""
        return 8 if self.method == "lora" and not self.rank else self.rank

    def peak_rate(self, width: int) -> float:
        """Peak learning rate for a model of a hidden width."""
        return self.learning_rate or (ADAPTER_RATE if self.adapter_rank else RATE_TIMES_WIDTH / width)

    def check(self) -> None:
        """Check that there is one budget.

        Raises:
            RecoveryError: there is none.
        """
        if not self.minutes and not self.tokens and not self.epochs:
            raise RecoveryError("The recovery has no budget.", "Give minutes, tokens or epochs.")
