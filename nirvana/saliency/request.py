"""What a criterion is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nirvana.errors import SaliencyError
from nirvana.layout import Site

if TYPE_CHECKING:
    import torch

    from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
    from nirvana.models.lm import LM
    from nirvana.progress import ProgressCallback


class Scored(NamedTuple):
    """Site -> float32 (units,), and how it was done, as JSON values."""

    scores: dict[Site, np.ndarray]
    details: dict[str, object]


@dataclass(frozen=True)
class Request:
    """The arguments of `nirvana.score`, as a criterion gets them."""

    lm: LM
    calibration: CalibrationSet | CalibrationSelection | None
    seed: int
    memory: int | None
    strategy: str
    progress: ProgressCallback | None

    def tokens(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(N, T) ids and mask, or None, of the calibration set, on the CPU.

        Raises:
            SaliencyError: there is none, it has tokens that the model does not know, or a sample is all padding.
        """
        if self.calibration is None:
            raise SaliencyError("This criterion reads text.", "Give it a calibration set.")
        ids, mask = self.calibration.input_ids, self.calibration.attention_mask
        vocabulary = self.lm.family.geometry(self.lm.settings)["vocabulary"]
        if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
            raise SaliencyError(
                f"The calibration set has token ids outside 0..{vocabulary - 1}.", "Sample it with this model."
            )
        if mask is not None and not bool(mask.bool().any(dim=1).all()):
            raise SaliencyError("A calibration sample consists of padding only.", "Leave it out.")
        return ids, mask
