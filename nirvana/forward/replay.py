"""Forward passes that share the blocks below the one that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from nirvana.calibration.sets import CalibrationSet
from nirvana.forward.chunks import batch_windows
from nirvana.models.lm import LM


class Place(NamedTuple):
    """A block: its stack, and its position in the model's list of that stack's layers."""

    stack: str
    position: int


class _Reached(Exception):
    """Ends a forward pass at a block, with the block's output."""

    def __init__(self, output: Any) -> None:
        self.output = output


class Replay:
    """A probe's forward passes from one block upwards, again and again, e.g. with different weights in that block.

    The outputs of the block below are recorded once, by the library's own forward, and returned in place of all blocks
    below: position biases and encoder outputs, which later blocks read too, come with them. The memory is that of one
    block's outputs. `advance` moves on to the next block, encoder before decoder.

    >>> with Replay(lm, probe) as replay:
    ...     for place in replay.places:
    ...         states = list(replay.hidden_states())  # the blocks from `place` on are computed
    ...         replay.advance()

    Args:
        lm: a model with its weights in memory.
        probe: windows (N, T) without padding.
    """

    def __init__(self, lm: LM, probe: CalibrationSet) -> None:
        self._lm, self._model = lm, lm.weights()
        self._blocks = lm.family.blocks(self._model)
        self.places = [
            Place(stack, position) for stack in lm.layout.stacks for position in range(len(self._blocks[stack]))
        ]
        self._next = 0  # index of the lowest block that is computed
        self._batch = 0
        self._recorded: dict[str, list[Any]] = {}  # stack -> output of its last block that is not computed, by batch
        size = batch_windows(lm, max(probe.tokens.shape[1], probe.outputs.shape[1]))
        self._inputs = [
            tuple(
                None if part is None else torch.from_numpy(part[first : first + size]).to(lm.device)
                for part in (probe.tokens, probe.decoder_tokens)
            )
            for first in range(0, len(probe.tokens), size)
        ]

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        for place in self.places[: self._next]:
            self._block(place).__dict__.pop("forward", None)

    @property
    def batches(self) -> int:
        """Number of batches of a pass."""
        return len(self._inputs)

    def hidden_states(self) -> Iterator[torch.Tensor]:
        """(B, T, H) hidden states that the head reads, one batch after another."""
        for batch in range(len(self._inputs)):
            yield self._forward(batch)

    def advance(self, report: Callable[[], None] = lambda: None) -> None:
        """Record the outputs of the lowest computed block, and compute it no more.

        Args:
            report: called after each batch; may raise `Cancelled`.
        """
        place = self.places[self._next]
        block = self._block(place)
        compute, outputs = block.forward, list[Any]()

        def stop(*args: Any, **kwargs: Any) -> None:
            raise _Reached(compute(*args, **kwargs))

        block.__dict__["forward"] = stop
        try:
            for batch in range(len(self._inputs)):
                try:
                    self._forward(batch)
                except _Reached as reached:
                    outputs.append(reached.output)
                report()
        finally:
            block.__dict__.pop("forward", None)
        self._recorded[place.stack] = outputs
        block.__dict__["forward"] = lambda *_, **__: self._recorded[place.stack][self._batch]
        self._next += 1

    def _block(self, place: Place) -> nn.Module:
        return self._blocks[place.stack][place.position]

    def _forward(self, batch: int) -> torch.Tensor:
        self._batch = batch
        ids, decoder_ids = self._inputs[batch]
        assert ids is not None
        with torch.inference_mode():
            return self._lm.family.hidden_states(self._model, ids, None, decoder_ids)
