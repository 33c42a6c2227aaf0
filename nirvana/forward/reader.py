"""A forward pass over calibration sets in batches, for hooks that read activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from nirvana.forward.chunks import batch_windows
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
        self._batches = [(tokens, rows) for tokens in sets for rows in _rows(lm, tokens)]
        self._stage = stage
        self._progress = progress
        self._total = len(self._batches) * steps
        self._done = 0
        self._counted: dict[str, torch.Tensor | None] = {}  # stack -> (b, T) booleans, or None where all count

    def run(self) -> None:
        """All batches."""
        with torch.inference_mode():
            for tokens, rows in self._batches:
                self._read(tokens, rows)

    def counted(self, stack: str, states: torch.Tensor) -> torch.Tensor:
        """States (n, d) at positions that count, of states (b, T, d) in `stack`."""
        seen = self._counted[stack]
        return states.flatten(0, -2) if seen is None else states[seen]

    def tick(self) -> None:
        """Report one unit of work as done."""
        self._done += 1
        self._report()

    def _read(self, tokens: Tokens, rows: slice) -> None:
        lm = self._lm
        ids, mask, decoder_ids, counted = (None if all_ is None else all_[rows].to(lm.device) for all_ in tokens)
        assert ids is not None
        *before, last = lm.layout.stacks
        self._counted = {last: counted} | {stack: None if mask is None else mask.bool() for stack in before}
        self._report()
        lm.family.hidden_states(lm.weights(), ids, mask, decoder_ids)

    def _report(self) -> None:
        report(self._progress, self._stage, self._done, self._total)


def block_output(output: Any) -> torch.Tensor:
    """A block's output states; some releases of transformers wrap them in a tuple."""
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


def block_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The states that a block was called with."""
    states: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return states


def _rows(lm: LM, tokens: Tokens) -> Sequence[slice]:
    longest = max(tokens.input_ids.shape[1], tokens.outputs.shape[1])
    size = batch_windows(lm, longest)
    return [slice(first, first + size) for first in range(0, len(tokens.input_ids), size)]
