"""Input and output of a criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from nirvana.errors import SaliencyError
from nirvana.forward.tokens import Tokens, read_tokens
from nirvana.layout import Site

if TYPE_CHECKING:
    from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
    from nirvana.models.lm import LM
    from nirvana.progress import ProgressCallback


Strategy = Literal["auto", "micro-batches", "recompute"]


class Scored(NamedTuple):
    """Site -> float32 (units,), and details of the computation as JSON values."""

    scores: dict[Site, np.ndarray]
    details: dict[str, object]


@dataclass(frozen=True)
class Request:
    """The arguments of `nirvana.score`, as passed to a criterion."""

    lm: LM
    calibration: CalibrationSet | CalibrationSelection | None
    seed: int
    memory: int | None
    strategy: str
    progress: ProgressCallback | None

    def text(self) -> CalibrationSet | CalibrationSelection:
        """The calibration set.

        Raises:
            SaliencyError: there is none.
        """
        if self.calibration is None:
            raise SaliencyError("This criterion reads text.", "Give it a calibration set.")
        return self.calibration

    def tokens(self) -> Tokens:
        """Tokens of the calibration set.

        Raises:
            SaliencyError: there is none, or see `read_tokens`.
        """
        return read_tokens(self.lm, self.text())
