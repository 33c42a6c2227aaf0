"""A forward pass that keeps only the blocks' inputs, and its backward pass, which computes each block again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from nirvana.forward.states import block_input, block_output


class _Call(NamedTuple):
    """Arguments of a block: its input states, and the rest (positions, mask) as the library passed them."""

    states: torch.Tensor  # (b, T, H)
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def reading(self, old: torch.Tensor, new: torch.Tensor) -> _Call:
        """The same call with another tensor in the place of one of its further arguments."""
        args = tuple(new if value is old else value for value in self.args)
        return _Call(self.states, args, {name: new if value is old else value for name, value in self.kwargs.items()})


class Pass:
    """A forward pass of some samples without autograd, keeping the blocks' inputs. Autograd is on after the last block
    of each stack, so that gradients pass from the last hidden states through the final norm, and from the decoder's
    cross-attention into the encoder.

    Attributes:
        calls: stack -> the calls of its blocks that are still to be recomputed.
        ends: stack -> the output of its last block.
        outputs: stack -> its output as the next stack reads it; the last has none.
        upstream: the gradient at the output of the block that is recomputed next.
    """

    def __init__(self, stacks: dict[str, list[nn.Module]]) -> None:
        self.calls: dict[str, list[_Call]] = {stack: [] for stack in stacks}
        self.ends: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self.upstream = torch.empty(0)
        self._read: dict[str, torch.Tensor] = {}
        self._before = dict(zip(list(stacks)[1:], stacks, strict=False))

    def note(self, stack: str, call: _Call) -> None:
        """Keep a block's call. Its only argument with a gradient is the output of the previous stack."""
        self.calls[stack].append(call)
        for value in (*call.args, *call.kwargs.values()):
            if isinstance(value, torch.Tensor) and value.requires_grad:
                self.outputs[self._before[stack]] = value

    def through(self, stack: str, block: nn.Module, *, first: bool) -> None:
        """Run `block` again with autograd and move `upstream` to its input, except for the `first` block of the
        stack.
        """
        call = self.calls[stack].pop()
        before = self._before.get(stack)
        if before is not None:
            if before not in self._read:
                self._read[before] = self.outputs[before].detach().requires_grad_()
            call = call.reading(self.outputs[before], self._read[before])
        states = call.states.requires_grad_(not first)
        with torch.enable_grad():
            output = block_output(block(states, *call.args, **call.kwargs))
        torch.autograd.backward(output, self.upstream)
        if not first:
            assert states.grad is not None
            self.upstream = states.grad

    def into_the_stack_before(self, stack: str) -> None:
        """Move `upstream` from the cross-attention of all blocks of `stack` to the end of the previous stack."""
        before = self._before.get(stack)
        if before is not None:
            torch.autograd.backward(self.outputs.pop(before), self._read.pop(before).grad)
            self._upstream_from(before)

    def _upstream_from(self, stack: str) -> None:
        gradient = self.ends.pop(stack).grad
        assert gradient is not None
        self.upstream = gradient

    def finish(self, hidden: torch.Tensor, output_gradient: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Initialise `upstream`, the gradient at the end of the last stack."""
        with torch.no_grad():
            upstream = output_gradient(hidden.detach())
        last = list(self.calls)[-1]
        (self.upstream,) = torch.autograd.grad(hidden, self.ends.pop(last), upstream)


def forward_pass(
    stacks: dict[str, list[nn.Module]],
    hidden_states: Callable[[], torch.Tensor],
    output_gradient: Callable[[torch.Tensor], torch.Tensor],
) -> Pass:
    """The library's own forward, without autograd inside blocks.

    Args:
        stacks: stack -> its blocks, in order of execution.
        hidden_states: runs the forward; returns the last hidden states (b, T, H).
        output_gradient: the gradient (b, T, H) at these states.
    """
    kept = Pass(stacks)
    handles = []

    def note(stack: str) -> Callable[..., None]:
        def before_block(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            torch.set_grad_enabled(False)
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            kept.note(stack, _Call(block_input(args, kwargs).detach(), args[1:], rest))

        return before_block

    def cut(stack: str) -> Callable[..., Any]:
        def after_block(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            end = kept.ends[stack] = block_output(output).detach().requires_grad_()
            torch.set_grad_enabled(True)
            return (end, *output[1:]) if isinstance(output, tuple) else end

        return after_block

    for stack, blocks in stacks.items():
        handles += [block.register_forward_pre_hook(note(stack), with_kwargs=True) for block in blocks]
        handles.append(blocks[-1].register_forward_hook(cut(stack)))
    try:
        with torch.no_grad():
            hidden = hidden_states()
    finally:
        for handle in handles:
            handle.remove()
    kept.finish(hidden, output_gradient)
    return kept
