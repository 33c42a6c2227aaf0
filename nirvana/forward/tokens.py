"""Tokens and labels of a calibration set, validated for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nirvana.errors import SaliencyError

if TYPE_CHECKING:
    import torch

    from nirvana.calibration.sets import CalibrationSelection, CalibrationSet
    from nirvana.models.lm import LM

UNLABELLED = -100  # as in transformers


class Tokens(NamedTuple):
    """Tokens of a calibration set, on the CPU. Scores are of the outputs at T positions.

    With an encoder, `input_ids` and `attention_mask` are its inputs, (N, S), and `decoder_input_ids` is (N, T); without
    one that is None and S is T. `counted` marks the outputs that count; None for all.
    """

    input_ids: torch.Tensor  # (N, S)
    attention_mask: torch.Tensor | None  # (N, S)
    decoder_input_ids: torch.Tensor | None  # (N, T)
    counted: torch.Tensor | None  # (N, T) booleans

    @property
    def outputs(self) -> torch.Tensor:
        return self.input_ids if self.decoder_input_ids is None else self.decoder_input_ids


def read_tokens(lm: LM, calibration: CalibrationSet | CalibrationSelection) -> Tokens:
    """Tokens of a calibration set, validated for `lm`.

    Raises:
        SaliencyError: it is for another kind of model, has tokens outside the vocabulary, or a sample is all padding.
    """
    import torch

    counted = calibration.counted
    tokens = Tokens(
        calibration.input_ids,
        calibration.attention_mask,
        calibration.decoder_input_ids,
        None if counted is None else torch.from_numpy(counted),
    )
    if (tokens.decoder_input_ids is None) == lm.family.encoder_decoder:
        needed = "both an encoder's and a decoder's tokens" if lm.family.encoder_decoder else "no decoder's tokens"
        raise SaliencyError(
            f"The calibration set is for another kind of model: {lm.source.name} takes {needed}.",
            "Sample it with this model.",
        )
    vocabulary = lm.family.geometry(lm.settings)["vocabulary"]
    for ids in (tokens.input_ids, tokens.outputs):
        if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
            raise SaliencyError(
                f"The calibration set has token ids outside 0..{vocabulary - 1}.", "Sample it with this model."
            )
    for mask in (tokens.attention_mask, tokens.counted):
        if mask is not None and not bool(mask.bool().any(dim=1).all()):
            raise SaliencyError("A calibration sample consists of padding only.", "Leave it out.")
    return tokens


def read_labels(calibration: CalibrationSet | CalibrationSelection) -> torch.Tensor:
    """Labels at each position of the outputs: int64 (N, T) on the CPU, -100 where there is none.

    Without an encoder that is the next token, where both it and the position count; with one, the labels.
    """
    import torch

    if calibration.labels is not None:
        return calibration.labels
    tokens = calibration.input_ids
    labels = torch.full_like(tokens, UNLABELLED)
    labels[:, :-1] = tokens[:, 1:]
    if calibration.counted is not None:
        counted = torch.from_numpy(calibration.counted)
        labels[:, :-1][~(counted[:, 1:] & counted[:, :-1])] = UNLABELLED
    return labels
