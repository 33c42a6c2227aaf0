"""Weights that stay on disk: one block at a time is in memory, and the next is read while it computes.

The blocks of the library's model are on the meta device. A hook of torch reads a block before its forward; the block
that was there before it is dropped. accelerate's hooks replace a module's `forward`, which `Replay` does too, drop a
block after every call, which reads it again for each batch, and do not serve weights outside a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from nirvana.models.families.base import Family
from nirvana.models.limits import give_back_free_memory
from nirvana.models.sizes import PAGED as ROWS
from nirvana.models.spill import Spill
from nirvana.models.tensors import Checkpoint, checked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Source = Callable[[], torch.Tensor]  # reads one tensor to the CPU
Place = tuple[nn.Module, str]  # a module and the name of a parameter of it


class _Held(NamedTuple):
    """A parameter of a block: its place, its values on the meta device, and where they are read."""

    place: Place
    placeholder: nn.Parameter
    source: Source


class BlockLoader:
    """Keeps one block of a model in memory.

    A weight that something else has put in a placeholder's place, such as a masked one, is neither replaced nor
    dropped.

    Args:
        blocks: in the order of execution, with parameters on the meta device.
        sources: where each parameter is read.
        device: that computes.

    Attributes:
        reads: number of blocks that were loaded so far.
        spill: for weights that differ from those in the files.
    """

    def __init__(self, blocks: Iterable[nn.Module], sources: Mapping[Place, Source], device: torch.device) -> None:
        self._blocks = list(blocks)
        self._index = {block: index for index, block in enumerate(self._blocks)}
        self._held = [
            [_Held((module, name), weight, sources[module, name]) for module, name, weight in _parameters(block)]
            for block in self._blocks
        ]
        self._sources = {id(held.placeholder): held.source for block in self._held for held in block}
        self.device = device
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="nirvana-blocks")
        self._ahead: tuple[int, Future[list[torch.Tensor]]] | None = None
        self._resident, self._step = -1, 1
        self._loaded: list[nn.Parameter] = []
        self.reads = 0
        self.spill = Spill()
        self._hooks: list[Any] = []
        self._attach()

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Have no block in memory and no hooks on the model, as while it is copied."""
        self._detach()
        try:
            yield
        finally:
            self._attach()

    def load(self, block: nn.Module) -> nn.Module:
        """`block` with its weights in memory, until another is loaded.

        Raises:
            ModelError: a weight is not finite, or the files have changed.
            CheckpointError: a file cannot be read.
        """
        index = self._index[block]
        if index == self._resident:
            return block
        previous = self._resident
        self.release()
        for held, values in zip(self._held[index], self._read(index), strict=True):
            module, name = held.place
            # A parameter made in inference mode could not be differentiated later.
            with torch.inference_mode(False):
                loaded = nn.Parameter(values.to(self.device), requires_grad=False)
            self._loaded.append(loaded)
            if getattr(module, name) is held.placeholder:
                setattr(module, name, loaded)
        self._resident = index
        if previous >= 0 and abs(index - previous) == 1:
            self._step = index - previous
        self._read_ahead(index + self._step)
        return block

    def release(self) -> None:
        """Drop the block in memory."""
        if self._resident < 0:
            return
        for held, loaded in zip(self._held[self._resident], self._loaded, strict=True):
            module, name = held.place
            if getattr(module, name) is loaded:
                setattr(module, name, held.placeholder)
        self._loaded, self._resident = [], -1
        give_back_free_memory()  # small pieces between blocks would add up

    def source(self, weight: torch.Tensor) -> Source:
        """Reads the values of one parameter of a block that is not in memory; gives any other as it is."""
        return self._sources.get(id(weight)) or (lambda: weight)

    def copied(
        self, memo: Mapping[int, Any], blocks: Sequence[nn.Module], changed: Mapping[Place, Source]
    ) -> BlockLoader:
        """The loader of a deep copy of the model.

        Args:
            memo: of `copy.deepcopy`: the id of a module -> its copy.
            blocks: of the copy, which may be fewer.
            changed: sources of parameters, of the original's modules, whose values differ in the copy.
        """
        sources: dict[Place, Source] = {}
        mine = {held.place: held.source for block in self._held for held in block}
        for (module, name), source in {**mine, **changed}.items():
            if id(module) in memo:
                sources[memo[id(module)], name] = source
        return BlockLoader(blocks, sources, self.device)

    def close(self) -> None:
        """Drop everything in memory and end the reading thread."""
        self._detach()
        self._ahead = None
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _attach(self) -> None:
        def before(block: nn.Module, _: object) -> None:
            if computes(block):
                self.load(block)

        self._hooks = [block.register_forward_pre_hook(before) for block in self._blocks]

    def _detach(self) -> None:
        self.release()
        for hook in self._hooks:
            hook.remove()

    def _read(self, index: int) -> list[torch.Tensor]:
        self.reads += 1
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == index:
            return ahead[1].result()
        if ahead is not None:
            ahead[1].cancel()
        return self._values(index)

    def _read_ahead(self, index: int) -> None:
        if 0 <= index < len(self._blocks):
            self._ahead = index, self._reader.submit(self._values, index)

    def _values(self, index: int) -> list[torch.Tensor]:
        return [held.source() for held in self._held[index]]


def computes(block: nn.Module) -> bool:
    """Whether a block's own forward runs when it is called: a `Replay` replaces that of blocks it does not compute."""
    return "forward" not in vars(block)


def put_on_disk(model: PreTrainedModel, family: Family, checkpoint: Checkpoint, device: torch.device) -> BlockLoader:
    """Give a model that was built from `checkpoint.stand_ins` its weights, those of its blocks on disk.

    The others, chiefly embeddings and output head, are pages of a file on a CPU, and on the device elsewhere.

    Raises:
        ModelError: the library combined several tensors into one, or a weight is not finite.
        CheckpointError: a file cannot be read.
    """
    stacks = {stack: list(blocks) for stack, blocks in family.blocks(model).items()}
    sources: dict[Place, Source] = {}
    for block in (block for blocks in stacks.values() for block in blocks):
        for module, name, weight in _parameters(block):
            sources[module, name] = checkpoint.source(checkpoint.name_of(weight))
            setattr(module, name, nn.Parameter(weight.detach().to("meta"), requires_grad=False))
    for blocks in family.blocks(model).values():
        del blocks[:]  # until the rest is on the device: meta tensors cannot be moved
    spill = Spill()
    for weight in model.parameters():
        name = checkpoint.name_of(weight)
        weight.data = _paged(checkpoint, name, spill) if device.type == "cpu" else checkpoint.source(name)()
    model.requires_grad_(False)
    nn.Module.to(model, device)
    for stack, blocks in family.blocks(model).items():
        blocks.extend(stacks[stack])
    return BlockLoader([block for blocks in stacks.values() for block in blocks], sources, device)


def _paged(checkpoint: Checkpoint, name: str, spill: Spill) -> torch.Tensor:
    """A tensor as pages of the checkpoint, or of a converted copy on disk where the checkpoint has another dtype."""
    stored = checkpoint.pages(name)
    if stored.numel() <= ROWS:
        return checkpoint.source(name)()
    rows = max(1, ROWS // stored[0].numel())
    slot = None if stored.dtype == checkpoint.dtype else spill.reserve(tuple(stored.shape), checkpoint.dtype)
    for start in range(0, len(stored), rows):
        part = checked(name, stored[start : start + rows], checkpoint.dtype)
        if slot is not None:
            spill.write(slot, start, part)
    return stored if slot is None else spill.mapped(slot)


def _parameters(block: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    return [
        (module, name, weight) for module in block.modules() for name, weight in module.named_parameters(recurse=False)
    ]
