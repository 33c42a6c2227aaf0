"""Errors that a user can act on: each has a cause and a hint."""

from __future__ import annotations

KEPT = "The finished steps are kept."


class NirvanaError(Exception):
    """Base of every expected failure.

    `str(error)` is the whole message; `error.hint` is the advice alone, for pages.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message} {hint}".strip())

    def __reduce__(self) -> tuple[type[NirvanaError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class ModelError(NirvanaError):
    """A model cannot be found, read, or fitted in memory, or its architecture is not supported."""


class CorpusError(NirvanaError):
    """A text source cannot be found, is empty, or is too short."""


class SaliencyError(NirvanaError):
    """Scores cannot be computed: unknown criterion, or values that are not finite."""


class PlanError(NirvanaError, ValueError):
    """A sparsity, ratio or constraint is invalid or out of reach, or a plan does not fit the model."""


class CompensationError(NirvanaError):
    """Statistics are missing, of another model, not finite, or too large for the memory."""


class RecoveryError(NirvanaError):
    """A recovery has no budget, does not fit the model or its saved state, or cannot continue."""


class TaskError(NirvanaError):
    """A zero-shot task is unknown, cannot be read or downloaded, or does not fit the model."""


class CheckpointError(NirvanaError):
    """A checkpoint cannot be written, or is incomplete or inconsistent."""


class RunError(NirvanaError):
    """A run or job is unknown, cannot be changed, or its worker stopped."""


class Cancelled(NirvanaError):
    """The caller asked a long operation to stop."""

    def __init__(self, message: str = "Cancelled.", hint: str = KEPT) -> None:
        super().__init__(message, hint)
