"""First-order scores: sum |W * dF/dW| per unit, for any scalar F of the last hidden states.

A criterion gives `output_gradient(head, hidden, batch)`, the gradient of F at those states; the rest is shared. F is a
sum over samples, and the absolute value is taken after it, so each weight's gradient must be complete before it is
reduced. Two strategies bound the memory:

- micro-batches: a few samples at a time, accumulating the gradients of all prunable weights in float32; the last
backward pass completes them one by one;
- recompute: the forward pass keeps only the blocks' inputs. Then block by block, from the last, all samples pass
  through that block again, a few at a time, with autograd. Only one block's gradients exist at any moment.

With weights on disk it is recomputation that reads each block once forwards and once backwards (see `streamed`).

In both a complete gradient is reduced to its unit sums at once and freed. Where the absolute value is taken per sample,
samples run one at a time, and each costs a pass over all prunable weights besides its forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from nirvana.forward.replay import Inputs
from nirvana.forward.tokens import UNLABELLED, read_labels
from nirvana.layout import Site
from nirvana.models.families.base import WeightSlice
from nirvana.models.lm import LM
from nirvana.progress import ProgressCallback, report
from nirvana.saliency.budget import MICRO_BATCHES, choose
from nirvana.saliency.recomputed import Pass, forward_pass
from nirvana.saliency.request import Request, Scored
from nirvana.saliency.streamed import streamed_backward
from nirvana.saliency.units import add_unit_sums, unit_weights


class Batch(NamedTuple):
    """Some samples of a calibration set (see `Tokens`). `tick` reports progress; call it once a sample."""

    input_ids: torch.Tensor  # (b, S)
    attention_mask: torch.Tensor | None  # (b, S)
    decoder_input_ids: torch.Tensor | None  # (b, T)
    counted: torch.Tensor | None  # (b, T)
    labels: torch.Tensor  # (b, T), `UNLABELLED` where nothing should be predicted
    samples: int  # of the whole set
    length: int  # T
    positions: int  # of the whole set that count
    predicted: int  # labels in the whole set
    tick: Callable[[], None]

    def hidden_states(self, lm: LM) -> torch.Tensor:
        """(b, T, H)."""
        return lm.family.hidden_states(lm.module(), self.input_ids, self.attention_mask, self.decoder_input_ids)


OutputGradient = Callable[[nn.Linear, torch.Tensor, Batch], torch.Tensor]


def first_order_scores(request: Request, output_gradient: OutputGradient, *, per_sample: bool = False) -> Scored:
    """Scores of every unit for the F whose gradient at the last hidden states is given.

    Args:
        request: model, tokens and memory.
        output_gradient: (head, hidden (b, T, H), batch) -> (b, T, H), the gradient of F times the number of tokens of
            the whole set: a value per token that neither overflows nor vanishes in half precision.
        per_sample: take the absolute value for each sample before the sum.

    Raises:
        SaliencyError: the calibration set does not suit the model, or the memory does not suffice.
    """
    lm = request.lm
    tokens = request.tokens()
    samples, length = tokens.outputs.shape
    longest = max(length, tokens.input_ids.shape[1])
    choice = choose(
        lm.sizes,
        samples,
        longest,
        device=str(lm.device),
        strategy=request.strategy,
        memory=request.memory,
        per_sample=per_sample,
        name=lm.source.name,
    )
    steps = _Steps(request.progress)
    labels = read_labels(request.text())
    positions = samples * length if tokens.counted is None else int(tokens.counted.sum())
    predicted = int((labels != UNLABELLED).sum())

    def part(start: int) -> Batch:
        rows = slice(start, start + choice.micro_batch)
        ids, mask, decoder_ids, counted = (None if all_ is None else all_[rows].to(lm.device) for all_ in tokens)
        assert ids is not None
        wanted = labels[rows].to(lm.device)
        return Batch(ids, mask, decoder_ids, counted, wanted, samples, length, positions, predicted, steps)

    batches = [part(start) for start in range(0, samples, choice.micro_batch)]
    gradients = _Gradients(lm, steps, per_sample=per_sample)
    run = _on_disk if lm.disk is not None else _micro_batches if choice.strategy == MICRO_BATCHES else _recompute
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
    """Counts small steps of work and reports them; an exception raised here stops the pass."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        self.progress = progress
        self.done = 0
        self.total = 0

    def __call__(self) -> None:
        self.done += 1
        report(self.progress, "Scoring", min(self.done, self.total), self.total)


class _Gradients:
    """Reduces gradients of prunable weights to unit sums; a context manager that restores the model.

    _Gradients are accumulated in float32 until `arriving(last=True)`. Then each gradient completes its weight, is
    reduced and freed; with `per_sample`, every gradient is.
    """

    def __init__(self, lm: LM, steps: _Steps, *, per_sample: bool) -> None:
        self.sums = {site: torch.zeros(place.units, device=lm.device) for site, place in lm.layout.items()}
        self.count = sum(len(lm.family.slices(lm.settings, site)) for site in lm.layout)  # of weight matrices
        self._lm = lm
        self._per_sample = per_sample
        self._last = False
        self._steps = steps
        self._partial: dict[nn.Parameter, torch.Tensor] = {}
        self._handles: list[Any] = []
        self._required: list[nn.Parameter] = []
        self._before = [(weight, weight.requires_grad, weight.grad) for weight in lm.module().parameters()]

    def __enter__(self) -> _Gradients:
        for weight, _, _ in self._before:
            weight.requires_grad_(False)
            weight.grad = None
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        for weight, required, gradient in self._before:
            weight.requires_grad_(required)
            weight.grad = gradient
        self._partial.clear()

    def require(self, sites: set[Site]) -> None:
        """Require gradients of these sites' weights only; with weights on disk, of one block's."""
        self._forget()
        for site, part, weight in unit_weights(self._lm, [site for site in self._lm.layout if site in sites]):
            untyped: Any = weight.requires_grad_(True)  # which registering asks for
            self._handles.append(untyped.register_post_accumulate_grad_hook(self._hook(site, part)))
            self._required.append(weight)

    def _forget(self) -> None:
        for handle in self._handles:
            handle.remove()
        for weight in self._required:
            weight.requires_grad_(False)
        self._handles, self._required = [], []

    def arriving(self, *, last: bool) -> None:
        """Set whether the next gradients are the last of their weights."""
        self._last = last or self._per_sample

    def _hook(self, site: Site, part: WeightSlice) -> Callable[[torch.Tensor], None]:
        def arrived(weight: torch.Tensor) -> None:
            assert isinstance(weight, nn.Parameter) and weight.grad is not None
            if weight.dtype != torch.float32:  # float32 gradients are accumulated in place by autograd itself
                earlier = self._partial.pop(weight, None)
                gradient = weight.grad.float() if earlier is None else earlier.add_(weight.grad)
                weight.grad = None
                if not self._last:
                    self._partial[weight] = gradient
            else:
                gradient = weight.grad
            if self._last:
                add_unit_sums(self.sums[site], part, weight, gradient)
                weight.grad = None
            self._steps()

        return arrived


def _micro_batches(
    lm: LM, batches: list[Batch], output_gradient: OutputGradient, gradients: _Gradients, steps: _Steps
) -> None:
    model, blocks = lm.module(), [block for stack in _stacks(lm).values() for block in stack]
    samples = batches[0].samples
    steps.total = samples + len(batches) * (len(blocks) + gradients.count)
    gradients.require(set(lm.layout))
    with _ticking(blocks, steps):
        for batch in batches:
            gradients.arriving(last=batch is batches[-1])
            with torch.enable_grad():
                hidden = batch.hidden_states(lm)
            with torch.no_grad():
                upstream = output_gradient(lm.family.head(model), hidden.detach(), batch)
            torch.autograd.backward(hidden, upstream)
            del hidden


def _on_disk(
    lm: LM, batches: list[Batch], output_gradient: OutputGradient, gradients: _Gradients, steps: _Steps
) -> None:
    """Recomputation with each block read once in each direction."""
    blocks = sum(len(blocks) for blocks in _stacks(lm).values())
    steps.total = batches[0].samples + len(batches) * (2 * blocks + gradients.count)

    def upstream(head: nn.Linear, hidden: torch.Tensor, batch: int) -> torch.Tensor:
        return output_gradient(head, hidden, batches[batch])

    def begin(sites: list[Site]) -> None:
        gradients.require(set(sites))

    def backward(batch: int, states: torch.Tensor | None, output: torch.Tensor, above: torch.Tensor) -> Any:
        gradients.arriving(last=batch == len(batches) - 1)
        torch.autograd.backward(output, above)
        steps()
        return None if states is None else states.grad

    inputs = [Inputs(batch.input_ids, batch.attention_mask) for batch in batches]
    streamed_backward(lm, inputs, upstream, begin, backward, steps)


def _recompute(
    lm: LM, batches: list[Batch], output_gradient: OutputGradient, gradients: _Gradients, steps: _Steps
) -> None:
    stacks = _stacks(lm)
    blocks = [block for stack in stacks.values() for block in stack]
    samples = batches[0].samples
    steps.total = samples + len(batches) * (2 * len(blocks) + gradients.count)
    with _ticking(blocks, steps):
        passes = [_passed(lm, stacks, batch, output_gradient) for batch in batches]
        for stack, modules in reversed(stacks.items()):
            layers = lm.layout.layers(stack)
            for place in reversed(range(len(modules))):
                gradients.require({site for site in lm.layout if site[:2] == (stack, layers[place])})
                for kept in passes:
                    gradients.arriving(last=kept is passes[-1])
                    kept.through(stack, modules[place], first=place == 0)
            for kept in passes:
                kept.into_the_stack_before(stack)


def _passed(lm: LM, stacks: dict[str, list[nn.Module]], batch: Batch, output_gradient: OutputGradient) -> Pass:
    head = lm.family.head(lm.module())
    return forward_pass(stacks, lambda: batch.hidden_states(lm), lambda hidden: output_gradient(head, hidden, batch))


def _stacks(lm: LM) -> dict[str, list[nn.Module]]:
    """Stack -> its blocks, in order of execution."""
    return {stack: list(blocks) for stack, blocks in lm.family.blocks(lm.module()).items()}


@contextmanager
def _ticking(blocks: list[nn.Module], steps: _Steps) -> Iterator[None]:
    """Count a step after each block's forward."""
    handles = [block.register_forward_hook(lambda *_: steps()) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
