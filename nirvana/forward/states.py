"""Hidden states between blocks, in memory up to a budget and on disk beyond it."""

from __future__ import annotations

from typing import Any

import torch

from nirvana.models.spill import Slot, Spill


class States:
    """Stores hidden states; each `put` gives a key for `get` and `drop`.

    Args:
        budget: bytes in memory; None for no limit. The rest is in a temporary file.

    Raises:
        NirvanaError: the disk is full or not writable, from `put`.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._left = budget
        self._spill = Spill()
        self._kept: dict[int, Any] = {}
        self._device = torch.device("cpu")
        self._next = 0

    def put(self, value: Any) -> int:
        """Store states (B, T, H), or another output of a block, which stays in memory."""
        self._next += 1
        if self._left is not None and isinstance(value, torch.Tensor):
            self._device = value.device
            if value.nbytes > self._left:
                value = self._spill.put(value)
            else:
                self._left -= value.nbytes
        self._kept[self._next] = value
        return self._next

    def get(self, key: int) -> Any:
        """The stored states, on their device; from disk they are a new tensor."""
        value = self._kept[key]
        return self._spill.get(value).to(self._device) if isinstance(value, Slot) else value

    def drop(self, key: int) -> None:
        """Forget what was stored."""
        value = self._kept.pop(key)
        if isinstance(value, Slot):
            self._spill.free(value)
        elif self._left is not None and isinstance(value, torch.Tensor):
            self._left += value.nbytes


def block_output(output: Any) -> torch.Tensor:
    """A block's output states; some releases of transformers wrap them in a tuple."""
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


def block_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The states that a block was called with."""
    states: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return states
