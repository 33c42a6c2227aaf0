"""The diagonal of the tangent kernel under SignGD, and its change by pruning (paper: NTK view of Adam).

Adam approximated by SignGD has the asymmetric kernel Theta(x, x') = <grad f(x), sign grad f(x')>, whose diagonal is
||grad f(x)||_1. The paper claims that pruning moves it by the order of eps, the sum of the pruned saliencies. Removed
weights also leave the sum with their own |grad f|, which eps does not bound: `KernelShift` has both parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nirvana.calibration.sets import CalibrationSet
from nirvana.errors import ModelError, PlanError
from nirvana.evaluation.kernel_results import KernelShift
from nirvana.files import json_hash
from nirvana.forward.tokens import Tokens, read_tokens
from nirvana.layout import Site
from nirvana.models.families.base import WeightSlice
from nirvana.models.lm import LM
from nirvana.models.weights import layer_places, linear_layer
from nirvana.plan import PruningPlan
from nirvana.progress import ProgressCallback, report, within
from nirvana.saliency.units import CHUNK, add_unit_sums
from nirvana.surgery import prune

Visit = Callable[[nn.Parameter, torch.Tensor], None]


@dataclass(frozen=True, eq=False)
class Gradients:
    """Sums over the gradient of f at each of N inputs, float64.

    Attributes:
        output: (N,) f(x).
        mass: (N,) sum of |grad f(x)| over all parameters.
        units: site -> (N, units), the same over the weights and biases of each unit.
        saliency: site -> (N, units), sum of |grad f(x) * W| over the weights of each unit.
    """

    output: np.ndarray
    mass: np.ndarray
    units: dict[Site, np.ndarray]
    saliency: dict[Site, np.ndarray]


def kernel_shift(
    lm: LM,
    plan: PruningPlan,
    x: CalibrationSet,
    *,
    dense: Gradients | None = None,
    progress: ProgressCallback | None = None,
) -> KernelShift:
    """Measure the change of Theta(x, x) = ||grad f(x)||_1 by a plan, without compensation.

    Args:
        plan: of units; one that removes layers is not supported, since their norms belong to no unit.
        x: (N, T) tokens; each of the N samples is an input of its own. Text that did not calibrate the plan gives an
            unbiased estimate.
        dense: `output_gradients(lm, x)`, to compare several plans with one dense model.
        progress: called after each input; may raise `Cancelled`.

    Raises:
        PlanError: the plan is of a model of another shape, or removes layers.
        SaliencyError: the inputs do not suit the model.
        ModelError: the weights are not in memory, or a gradient is not finite.
    """
    if plan.removed_layers:
        raise PlanError("The kernel's shift is measured for plans of units.", "Use a plan that removes no layers.")
    if plan.layout.sites != lm.layout.sites:
        raise PlanError("The plan was made for a model of another shape.", "Allocate with scores of this model.")
    parts = 1 if dense is not None else 2
    if dense is None:
        dense = output_gradients(lm, x, progress=within(progress, "Dense model", 0, parts))
    small = prune(lm, plan)
    pruned = output_gradients(small, x, units=False, progress=within(progress, "Pruned model", parts - 1, parts))
    lost, saliency = np.zeros_like(dense.mass), np.zeros_like(dense.mass)
    for site, kept in plan.items():
        removed = np.setdiff1d(np.arange(lm.layout[site].units), kept)
        lost += dense.units[site][:, removed].sum(axis=1)
        saliency += dense.saliency[site][:, removed].sum(axis=1)
    samples, length = x.outputs.shape
    protocol = {
        "model": lm.hash,
        "plan": json_hash(plan.to_json()),
        "sparsity": plan.sparsity,
        "samples": samples,
        "length": length,
        "inputs": x.hash,
        "device": str(lm.device),
        "dtype": str(lm.dtype).removeprefix("torch."),
    }
    return KernelShift(dense.mass, pruned.mass, lost, saliency, dense.output, pruned.output, protocol)


def output_gradients(
    lm: LM, x: CalibrationSet, *, units: bool = True, progress: ProgressCallback | None = None
) -> Gradients:
    """Sums over the gradient of f at each sample of `x`, (N, T).

    One backward pass a sample; each parameter's gradient is reduced and freed as soon as it is ready.

    Args:
        units: also sum by unit.

    Raises:
        SaliencyError: the inputs do not suit the model.
        ModelError: the weights are not in memory, or a gradient is not finite.
    """
    count = len(x.tokens)
    mass, values = np.zeros(count), np.zeros(count)
    by_unit = {site: np.zeros((count, place.units)) for site, place in lm.layout.items()} if units else {}
    saliency = {site: np.zeros_like(sums) for site, sums in by_unit.items()}
    places = _unit_parameters(lm) if units else {}
    sample = 0

    def visit(parameter: nn.Parameter, gradient: torch.Tensor) -> None:
        mass[sample] += _absolute_sum(gradient)
        if parameter in places:
            site, part = places[parameter]
            by_unit[site][sample] += _unit_sums(lm, site, part, gradient, None)
            if parameter.ndim == 2:
                saliency[site][sample] += _unit_sums(lm, site, part, parameter, gradient)

    report(progress, "Gradients", 0, count)
    for value in backward_passes(lm, x, visit):
        values[sample] = value
        sample += 1
        report(progress, "Gradients", sample, count)
    if not (np.isfinite(values).all() and np.isfinite(mass).all()):
        raise ModelError(f"{lm.source.name} has gradients that are not finite.", "Load it with dtype float32.")
    return Gradients(values, mass, by_unit, saliency)


def backward_passes(
    lm: LM, x: CalibrationSet, visit: Visit, parameters: Iterable[torch.Tensor] | None = None
) -> Iterator[float]:
    """f(x) of one sample of `x` after another; `visit(parameter, gradient)` is called for each parameter before that.

    Args:
        parameters: of the model, those whose gradients are wanted; default all.

    Raises:
        SaliencyError: the inputs do not suit the model.
    """
    tokens = read_tokens(lm, x)
    with _visited(lm, visit, parameters):
        for sample in range(len(tokens.input_ids)):
            with torch.enable_grad():
                value = output_value(lm, tokens, sample)
            torch.autograd.backward(value)
            yield float(value.detach())


def output_value(lm: LM, tokens: Tokens, sample: int) -> torch.Tensor:
    """NIRVANA's f for one sample: the mean over vocabulary entries of the maximum over positions of the logits."""
    ids, mask, decoder_ids, counted = (
        None if all_ is None else all_[sample : sample + 1].to(lm.device) for all_ in tokens
    )
    assert ids is not None
    model = lm.weights()
    states = lm.family.hidden_states(model, ids, mask, decoder_ids)[0]  # (T, H)
    shown = states if counted is None else states[counted[0]]
    logits: torch.Tensor = lm.family.head(model)(shown)  # (t, V)
    largest = logits.max(dim=0).values
    return largest.mean(dtype=torch.promote_types(largest.dtype, torch.float32))


@contextmanager
def _visited(lm: LM, visit: Visit, parameters: Iterable[torch.Tensor] | None) -> Iterator[None]:
    """The parameters require a gradient, which is visited and freed once it is complete; restored afterwards."""
    wanted = None if parameters is None else set(parameters)

    def arrived(parameter: torch.Tensor) -> None:
        assert isinstance(parameter, nn.Parameter) and parameter.grad is not None
        visit(parameter, parameter.grad.detach())
        parameter.grad = None

    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in lm.weights().parameters()]
    handles = []
    try:
        for parameter, _, _ in before:
            parameter.grad = None
            untyped: Any = parameter.requires_grad_(wanted is None or parameter in wanted)
            if parameter.requires_grad:  # which registering asks for
                handles.append(untyped.register_post_accumulate_grad_hook(arrived))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


def _unit_parameters(lm: LM) -> dict[torch.Tensor, tuple[Site, WeightSlice]]:
    """Weights and biases that are removed with units."""
    places, blocks = layer_places(lm.layout), lm.family.blocks(lm.weights())
    found: dict[torch.Tensor, tuple[Site, WeightSlice]] = {}
    for site in lm.layout:
        for part in lm.family.slices(lm.settings, site):
            linear = linear_layer(blocks[site.stack][places[site.stack, site.layer]], part)
            found[linear.weight] = site, part
            if linear.bias is not None and part.dim == 0:
                found[linear.bias] = site, part
    return found


def _unit_sums(lm: LM, site: Site, part: WeightSlice, weight: torch.Tensor, factor: torch.Tensor | None) -> np.ndarray:
    sums = torch.zeros(lm.layout[site].units, device=weight.device)
    rows = weight.unsqueeze(1) if weight.ndim == 1 else weight  # a bias is one column
    add_unit_sums(sums, part, rows, factor)
    return sums.cpu().numpy().astype(np.float64)


def _absolute_sum(values: torch.Tensor) -> float:
    """Sum of |values|, a few million at a time."""
    return sum(float(piece.float().abs().sum()) for piece in torch.split(values.flatten(), CHUNK))
