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


class Tokens(NamedTuple):
    """What a calibration set holds, on the CPU. Scores are of the outputs at T positions.

    With an encoder, `input_ids` and `attention_mask` are what it reads, (N, S), and `decoder_input_ids` is (N, T);
    without one that is None and S is T. `counted` is where outputs count, or None where everywhere.
    """

    input_ids: torch.Tensor  # (N, S)
    attention_mask: torch.Tensor | None  # (N, S)
    decoder_input_ids: torch.Tensor | None  # (N, T)
    counted: torch.Tensor | None  # (N, T) booleans

    @property
    def outputs(self) -> torch.Tensor:
        return self.input_ids if self.decoder_input_ids is None else self.decoder_input_ids


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

    def tokens(self) -> Tokens:
        """What the calibration set holds.

        Raises:
            SaliencyError: there is none, it is for another kind of model, it has tokens that the model does not know,
                or a sample is all padding.
        """
        import torch

        if self.calibration is None:
            raise SaliencyError("This criterion reads text.", "Give it a calibration set.")
        counted = self.calibration.counted
        tokens = Tokens(
            self.calibration.input_ids,
            self.calibration.attention_mask,
            self.calibration.decoder_input_ids,
            None if counted is None else torch.from_numpy(counted),
        )
        if (tokens.decoder_input_ids is None) == self.lm.family.encoder_decoder:
            needed = (
                "both an encoder's and a decoder's tokens" if self.lm.family.encoder_decoder else "no decoder's tokens"
            )
            raise SaliencyError(
                f"The calibration set is for another kind of model: {self.lm.source.name} takes {needed}.",
                "Sample it with this model.",
            )
        vocabulary = self.lm.family.geometry(self.lm.settings)["vocabulary"]
        for ids in (tokens.input_ids, tokens.outputs):
            if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
                raise SaliencyError(
                    f"The calibration set has token ids outside 0..{vocabulary - 1}.", "Sample it with this model."
                )
        for mask in (tokens.attention_mask, tokens.counted):
            if mask is not None and not bool(mask.bool().any(dim=1).all()):
                raise SaliencyError("A calibration sample consists of padding only.", "Leave it out.")
        return tokens
