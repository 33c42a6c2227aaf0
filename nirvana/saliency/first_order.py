"""First-order scores: sum |W * dF/dW| per unit, for any scalar F of the last hidden states.

A criterion gives `output_gradient(head, hidden, batch)`, the gradient of F at those states; what follows is shared.
F adds up over samples, but the absolute value comes after that sum, so each weight's gradient has to be complete
before it is reduced. Two ways to keep that in memory:

- micro-batches: samples pass a few at a time and the gradients of all prunable weights are accumulated in float32
  until the last ones arrive, which completes them one by one;
- recompute: the forward pass keeps only the blocks' inputs. Then block by block, from the last, all samples pass
  through that block again, a few at a time, with autograd. Only one block's gradients exist at any moment.

Either way a gradient that is complete is reduced to its unit sums at once and freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from nirvana.layout import Site
from nirvana.models.families import WeightSlice
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report
from nirvana.saliency.budget import MICRO_BATCHES, choose
from nirvana.saliency.request import Request, Scored
from nirvana.saliency.units import add_unit_sums, unit_weights
from nirvana.surgery import layer_places


class Batch(NamedTuple):
    """Some samples of a calibration set. `tick` reports progress; call it once a sample."""

    input_ids: torch.Tensor  # (b, T)
    attention_mask: torch.Tensor | None  # (b, T)
    samples: int  # of the whole set
    length: int  # T
    tick: Callable[[], None]


OutputGradient = Callable[[nn.Linear, torch.Tensor, Batch], torch.Tensor]


def first_order_scores(request: Request, output_gradient: OutputGradient) -> Scored:
    """Scores of every unit for the F whose gradient at the last hidden states is given.

    Args:
        request: what to score, on which tokens, in how much memory.
        output_gradient: (head, hidden (b, T, H), batch) -> (b, T, H), the gradient of F times the number of tokens of
            the whole set: a value per token that neither overflows nor vanishes in half precision.

    Raises:
        SaliencyError: the calibration set does not suit the model, or the memory does not suffice.
    """
    lm = request.lm
    ids, mask = request.tokens()
    samples, length = ids.shape
    choice = choose(lm, samples, length, strategy=request.strategy, memory=request.memory)
    steps = _Steps(request.progress)

    def part(start: int) -> Batch:
        end = start + choice.micro_batch
        return Batch(
            ids[start:end].to(lm.device),
            None if mask is None else mask[start:end].to(lm.device),
            samples,
            length,
            steps,
        )

    batches = [part(start) for start in range(0, samples, choice.micro_batch)]
    gradients = _Gradients(lm, steps)
    run = _micro_batches if choice.strategy == MICRO_BATCHES else _recompute
    if lm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(lm.device)
        before = torch.cuda.memory_allocated(lm.device)
    with gradients:
        run(lm, batches, output_gradient, gradients, steps)
    details: dict[str, object] = {
        "strategy": choice.strategy,
        "micro_batch": choice.micro_batch,
        "estimated_bytes": choice.estimate,
    }
    if lm.device.type == "cuda":
        details["peak_bytes"] = torch.cuda.max_memory_allocated(lm.device) - before
    scores = {site: (values / (samples * length)).cpu().numpy() for site, values in gradients.sums.items()}
    return Scored(scores, details)


class _Steps:
    """Counts small steps of work and reports them; what raises here stops the pass it is called from."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        self.progress = progress
        self.done = 0
        self.total = 0

    def __call__(self) -> None:
        self.done += 1
        report(self.progress, "Scoring", min(self.done, self.total), self.total)


class _Gradients:
    """The gradients of prunable weights on their way to unit sums. A context that leaves the model as it was.

    While `last` is False gradients are accumulated, in float32; while it is True each one that arrives completes its
    weight, is reduced and freed.
    """

    def __init__(self, lm: LM, steps: _Steps) -> None:
        self.sums = {site: torch.zeros(place.units, device=lm.device) for site, place in lm.layout.items()}
        self.last = False
        self.weights = list(unit_weights(lm))
        self._steps = steps
        self._partial: dict[nn.Parameter, torch.Tensor] = {}
        self._handles: list[Any] = []
        self._before = [(weight, weight.requires_grad, weight.grad) for weight in lm.weights().parameters()]

    def __enter__(self) -> _Gradients:
        for weight, _, _ in self._before:
            weight.requires_grad_(False)
            weight.grad = None
        for site, part, weight in self.weights:
            untyped: Any = weight.requires_grad_(True)  # which registering asks for
            self._handles.append(untyped.register_post_accumulate_grad_hook(self._hook(site, part)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for weight, required, gradient in self._before:
            weight.requires_grad_(required)
            weight.grad = gradient
        self._partial.clear()

    def require(self, sites: set[Site]) -> None:
        """Ask autograd for the gradients of these sites' weights, and no others."""
        for site, _, weight in self.weights:
            weight.requires_grad_(site in sites)

    def _hook(self, site: Site, part: WeightSlice) -> Callable[[torch.Tensor], None]:
        def arrived(weight: torch.Tensor) -> None:
            assert isinstance(weight, nn.Parameter) and weight.grad is not None
            if weight.dtype != torch.float32:  # float32 gradients are accumulated in place by autograd itself
                earlier = self._partial.pop(weight, None)
                gradient = weight.grad.float() if earlier is None else earlier.add_(weight.grad)
                weight.grad = None
                if not self.last:
                    self._partial[weight] = gradient
            else:
                gradient = weight.grad
            if self.last:
                add_unit_sums(self.sums[site], part, weight, gradient)
                weight.grad = None
            self._steps()

        return arrived


def _micro_batches(
    lm: LM, batches: list[Batch], output_gradient: OutputGradient, gradients: _Gradients, steps: _Steps
) -> None:
    model, blocks = lm.weights(), _blocks(lm)
    samples = batches[0].samples
    steps.total = samples + len(batches) * (len(blocks) + len(gradients.weights))
    gradients.require(set(lm.layout))
    with _ticking(blocks, steps):
        for batch in batches:
            gradients.last = batch is batches[-1]
            with torch.enable_grad():
                hidden = lm.family.hidden_states(model, batch.input_ids, batch.attention_mask)
            with torch.no_grad():
                upstream = output_gradient(lm.family.head(model), hidden.detach(), batch)
            torch.autograd.backward(hidden, upstream)
            del hidden


def _recompute(
    lm: LM, batches: list[Batch], output_gradient: OutputGradient, gradients: _Gradients, steps: _Steps
) -> None:
    blocks = _blocks(lm)
    samples = batches[0].samples
    steps.total = samples + len(batches) * (2 * len(blocks) + len(gradients.weights))
    passes = []
    upstream = []
    with _ticking(blocks, steps):
        for batch in batches:
            calls, gradient = _forward_to_last_block(lm, blocks, batch, output_gradient)
            passes.append(calls)
            upstream.append(gradient)
        layers = lm.layout.layers()
        for place in reversed(range(len(blocks))):
            gradients.require({site for site in lm.layout if site.layer == layers[place]})
            for index, calls in enumerate(passes):
                gradients.last = index == len(passes) - 1
                call = calls.pop()
                states = call.states.requires_grad_(place > 0)
                with torch.enable_grad():
                    output = _states(blocks[place](states, *call.args, **call.kwargs))
                torch.autograd.backward(output, upstream[index])
                if place > 0:
                    assert states.grad is not None
                    upstream[index] = states.grad


class _Call(NamedTuple):
    """What a block was called with: its input states, and the rest (positions, mask) as the library gave it."""

    states: torch.Tensor  # (b, T, H)
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _forward_to_last_block(
    lm: LM, blocks: list[nn.Module], batch: Batch, output_gradient: OutputGradient
) -> tuple[list[_Call], torch.Tensor]:
    """The calls of all blocks in a forward pass without autograd, and the gradient at the last one's output.

    The library's own forward runs; autograd is switched on only after the last block, for the final norm.
    """
    calls: list[_Call] = []
    ends: list[torch.Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rest = dict(kwargs)
        states = args[0] if args else rest.pop("hidden_states")
        calls.append(_Call(states, args[1:], rest))

    def cut(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        ends.append(_states(output).detach().requires_grad_())
        torch.set_grad_enabled(True)
        return (ends[0], *output[1:]) if isinstance(output, tuple) else ends[0]

    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(cut))
    try:
        with torch.no_grad():
            hidden = lm.family.hidden_states(lm.weights(), batch.input_ids, batch.attention_mask)
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        upstream = output_gradient(lm.family.head(lm.weights()), hidden.detach(), batch)
    torch.autograd.backward(hidden, upstream)
    assert ends[0].grad is not None
    return calls, ends[0].grad


def _states(output: Any) -> torch.Tensor:
    """A block's output states; some releases of transformers wrap them in a tuple."""
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _blocks(lm: LM) -> list[nn.Module]:
    blocks = lm.family.blocks(lm.weights())
    return [blocks[stack][place] for (stack, _), place in layer_places(lm.layout).items()]


@contextmanager
def _ticking(blocks: list[nn.Module], steps: _Steps) -> Iterator[None]:
    """Count a step after each block's forward."""
    handles = [block.register_forward_hook(lambda *_: steps()) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
