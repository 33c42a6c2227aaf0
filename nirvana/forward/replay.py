"""Forward passes that share the blocks below the one that changes, and backward passes one block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import nn

from nirvana.forward.bounds import BUDGET
from nirvana.forward.states import States, block_output
from nirvana.models.lm import LM


class Place(NamedTuple):
    """A block: its stack, and its position in the model's list of that stack's layers."""

    stack: str
    position: int


class Inputs(NamedTuple):
    """Some samples on the model's device, as `Family.hidden_states` takes them."""

    ids: torch.Tensor  # (b, S)
    mask: torch.Tensor | None = None  # (b, S)
    decoder_ids: torch.Tensor | None = None  # (b, T)


class _Reached(Exception):
    """Ends a forward pass behind a block, with the block's output."""

    def __init__(self, output: Any) -> None:
        self.output = output


class Replay:
    """Forward passes of some batches from one block upwards, again and again, e.g. with other weights in that block.

    The outputs of the block below are recorded once, by the library's own forward, and returned in place of all blocks
    below: position biases and encoder outputs, which later blocks read too, come with them. The memory is that of one
    block's outputs. `advance` moves on to the next block, encoder before decoder. Hooks on blocks run for all of them,
    also for those that are not computed; see `computes`.

    For a model with weights on disk, a pass of all batches by `advance` reads each block once, and outputs beyond a
    budget of memory are kept on disk.

    >>> with Replay(lm, batches) as replay:
    ...     for place in replay.places:
    ...         states = list(replay.hidden_states())  # the blocks from `place` on are computed
    ...         replay.advance()

    Args:
        lm: a loaded model.
        batches: of samples.
        keep: keep the outputs of every block, for `through` and `retreat`. For models without an encoder only.
    """

    def __init__(self, lm: LM, batches: Sequence[Inputs], *, keep: bool = False) -> None:
        self._lm, self._model = lm, lm.module()
        self._blocks = lm.family.blocks(self._model)
        self.places = [
            Place(stack, position) for stack in lm.layout.stacks for position in range(len(self._blocks[stack]))
        ]
        self._next = 0  # index of the lowest block that is computed
        self._inputs, self._keep = batches, keep
        self._states = States(None if lm.disk is None else BUDGET)
        self._recorded: list[list[int]] = []  # for each block that is not computed: key of its outputs, by batch
        self._given: dict[str, Any] = {}  # stack -> output of its blocks that are not computed, in this batch

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        for place in self.places[: self._next]:
            self._compute(place)

    @property
    def batches(self) -> int:
        """Number of batches of a pass."""
        return len(self._inputs)

    @property
    def lowest(self) -> Place:
        """The lowest block that is computed."""
        return self.places[self._next]

    def hidden_states(self) -> Iterator[torch.Tensor]:
        """(B, T, H) hidden states that the head reads, one batch after another."""
        for batch in range(len(self._inputs)):
            with self._without_autograd():
                hidden = self._run(batch, self._outputs_below(batch))
            yield hidden

    def advance(self, report: Callable[[], None] = lambda: None, begin: Callable[[int], None] = lambda _: None) -> None:
        """Record the outputs of the lowest computed block, and compute it no more.

        Args:
            report: called after each batch; may raise `Cancelled`.
            begin: called with the index of each batch before it.
        """
        place = self.places[self._next]
        outputs = list[int]()
        for batch in range(len(self._inputs)):
            begin(batch)
            with self._without_autograd():
                output = self._up_to(place, batch, self._outputs_below(batch))
            outputs.append(self._states.put(output))
            report()
        for before in reversed(range(self._next)):
            if not self._keep and self.places[before].stack == place.stack:
                self._forget(before)
        self._recorded.append(outputs)
        self._block(place).__dict__["forward"] = lambda *_, **__: self._given[place.stack]
        self._next += 1

    def through(self, batch: int) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Compute the lowest computed block of one batch with autograd.

        Returns:
            Its input states (B, T, H), a leaf that requires a gradient, or None for the first block; and its output
            states. Once all blocks are recorded: the last block's output and the hidden states that the head reads.
        """
        given, leaf = self._outputs_below(batch), None
        if self._next:
            (stack,) = given
            leaf = block_output(given[stack]).detach().requires_grad_()
            given = {stack: (leaf, *given[stack][1:]) if isinstance(given[stack], tuple) else leaf}
        with torch.enable_grad():
            if self._next == len(self.places):
                return leaf, self._run(batch, given)
            return leaf, block_output(self._up_to(self.places[self._next], batch, given))

    def retreat(self) -> bool:
        """Compute the highest block that is not computed again, and forget its outputs; False where there is none."""
        if not self._next:
            return False
        self._next -= 1
        self._forget(self._next)
        self._recorded.pop()
        self._compute(self.places[self._next])
        return True

    def _block(self, place: Place) -> nn.Module:
        return self._blocks[place.stack][place.position]

    def _compute(self, place: Place) -> None:
        self._block(place).__dict__.pop("forward", None)

    def _forget(self, index: int) -> None:
        for key in self._recorded[index]:
            self._states.drop(key)
        self._recorded[index] = []

    def _without_autograd(self) -> AbstractContextManager[Any]:
        return torch.no_grad() if self._keep else torch.inference_mode()  # whose tensors cannot be leaves

    def _outputs_below(self, batch: int) -> dict[str, Any]:
        """Stack -> output of its last block that is not computed."""
        latest = {place.stack: index for index, place in enumerate(self.places[: self._next])}
        return {stack: self._states.get(self._recorded[index][batch]) for stack, index in latest.items()}

    def _up_to(self, place: Place, batch: int, given: dict[str, Any]) -> Any:
        """The output of the block at `place`."""

        def stop(_: nn.Module, __: object, output: Any) -> None:
            raise _Reached(output)

        handle = self._block(place).register_forward_hook(stop)  # after all other hooks
        try:
            self._run(batch, given)
        except _Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise AssertionError(f"the forward of {self._lm.source.name} calls no block {place}")

    def _run(self, batch: int, given: dict[str, Any]) -> torch.Tensor:
        """The library's forward, with `given` outputs in place of the blocks that are not computed."""
        self._given = given
        try:
            return self._lm.family.hidden_states(self._model, *self._inputs[batch])
        finally:
            self._given = {}
