"""A forward pass over calibration sets in batches, for hooks that read activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from nirvana.forward.chunks import batch_windows
from nirvana.forward.replay import Inputs, Replay
from nirvana.forward.tokens import Tokens, read_tokens
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report

if TYPE_CHECKING:
    from nirvana.calibration.sets import CalibrationSelection, CalibrationSet


class Reader:
    """Runs `lm` over calibration sets without autograd. Hooks on its modules select the positions that count with
    `counted`.

    Args:
        steps: calls of `tick` for each batch.
        stage: name of the stage in progress reports.
        progress: called by each `tick`; may raise `Cancelled`.

    Raises:
        SaliencyError: a calibration set does not suit the model.
    """

    def __init__(
        self,
        lm: LM,
        calibration: Iterable[CalibrationSet | CalibrationSelection],
        *,
        steps: int,
        stage: str,
        progress: ProgressCallback | None,
    ) -> None:
        sets = [read_tokens(lm, each) for each in calibration]
        self._lm = lm
        self._inputs = list[Inputs]()
        self._marks = list[torch.Tensor | None]()  # (b, T) booleans, or None where all count
        for tokens in sets:
            for rows in _rows(lm, tokens):
                ids, mask, decoder_ids, counted = (
                    None if all_ is None else all_[rows].to(lm.device) for all_ in tokens
                )
                assert ids is not None
                self._inputs.append(Inputs(ids, mask, decoder_ids))
                self._marks.append(counted)
        self._stage = stage
        self._progress = progress
        self._total = len(self._inputs) * steps
        self._done = 0
        self._counted: dict[str, torch.Tensor | None] = {}  # stack -> (b, T) booleans, or None where all count

    def run(self) -> None:
        """All batches."""
        lm = self._lm
        if lm.disk is None:
            with torch.inference_mode():
                for index, inputs in enumerate(self._inputs):
                    self._begin(index)
                    lm.family.hidden_states(lm.module(), *inputs)
            return
        with Replay(lm, self._inputs) as replay:
            for _ in replay.places:
                replay.advance(begin=self._begin)

    def counted(self, stack: str, states: torch.Tensor) -> torch.Tensor:
        """States (n, d) at positions that count, of states (b, T, d) in `stack`."""
        seen = self._counted[stack]
        return states.flatten(0, -2) if seen is None else states[seen]

    def tick(self) -> None:
        """Report one unit of work as done."""
        self._done += 1
        self._report()

    def _begin(self, batch: int) -> None:
        mask = self._inputs[batch].mask
        *before, last = self._lm.layout.stacks
        self._counted = {last: self._marks[batch]} | {stack: None if mask is None else mask.bool() for stack in before}
        self._report()

    def _report(self) -> None:
        report(self._progress, self._stage, self._done, self._total)


def _rows(lm: LM, tokens: Tokens) -> Sequence[slice]:
    longest = max(tokens.input_ids.shape[1], tokens.outputs.shape[1])
    size = batch_windows(lm, longest)
    return [slice(first, first + size) for first in range(0, len(tokens.input_ids), size)]
