"""Second-order scores: the loss of a unit's removal after compensation by least squares.

The Optimal Brain Surgeon for units of an output projection y = W x, as in ZipLM (arXiv 2302.04089), with G the
regularised second moment E[x x^T], as in the compensation "least_squares". Without feature j the best weights leave row
i with the squared error W_ij^2 / [G^-1]_jj. Rows are weighted by the cost of their errors, a_i = mean over labels of
the squared gradient of their negative log-likelihood with respect to y_i,

the empirical Fisher information of y. Units are removed one by one, the cheapest first, and W and G^-1 are updated
after each, so of two redundant units only the first is cheap. A unit's score is the cost of its removal. A unit of
several columns P is removed as a block: tr(a W_P ([G^-1]_PP)^-1 W_P^T).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nirvana.compensation import REGULARISATION
from nirvana.compensation.statistics import Moments, collect_statistics
from nirvana.forward.projections import output_projection, output_weight
from nirvana.forward.replay import Inputs
from nirvana.forward.tokens import UNLABELLED, read_labels
from nirvana.layout import Site
from nirvana.models.limits import give_back_free_memory
from nirvana.progress import report, track, within
from nirvana.saliency.activations import STAGE
from nirvana.saliency.budget import MICRO_BATCHES, RECOMPUTE, choose
from nirvana.saliency.request import Request, Scored
from nirvana.saliency.streamed import streamed_backward
from nirvana.saliency.taylor import check_labels, loss_gradient

PENDING = 32  # columns removed between updates of the large matrices, each one product
PARTS = 3


def unit_scores(request: Request) -> Scored:
    """Cost of each unit's removal; within a site, scores rise in the order of removal.

    Raises:
        SaliencyError: the calibration set does not suit the model or predicts nothing, or the memory does not suffice.
        CompensationError: the second moments do not fit in memory.
    """
    lm = request.lm
    costs = row_costs(request)
    give_back_free_memory()  # of the activations, before the statistics need it
    reading = within(request.progress, STAGE, 1, PARTS)
    statistics = collect_statistics(lm, request.text(), progress=reading)
    removing = within(request.progress, STAGE, 2, PARTS)
    scores = {}
    for site in track(list(lm.layout), removing, "Removing units", len(lm.layout)):
        weight = output_weight(lm, site)
        scores[site] = removal_costs(weight, costs[site], statistics[site], lm.layout[site].units)
        give_back_free_memory()  # of matrices of every size, which would add up
    return Scored(scores, {"regularisation": REGULARISATION})


def row_costs(request: Request) -> dict[Site, torch.Tensor]:
    """Site -> a, float32 (out,) on the model's device. A forward and backward pass, one sample at a time.

    Raises:
        SaliencyError: see `unit_scores`.
    """
    lm, tokens, labels = request.lm, request.tokens(), read_labels(request.text())
    predicted = int((labels != UNLABELLED).sum())
    check_labels(predicted)
    samples, length = tokens.outputs.shape
    longest = max(length, tokens.input_ids.shape[1])
    how: dict[str, Any] = {"strategy": MICRO_BATCHES if lm.disk is None else RECOMPUTE, "memory": request.memory}
    choose(lm.sizes, samples, longest, device=str(lm.device), per_sample=True, name=lm.source.name, **how)  # or refuse
    if lm.disk is not None:
        return {site: total / predicted for site, total in _streamed_row_costs(request).items()}
    model, outputs, totals = lm.module(), dict[Site, torch.Tensor](), dict[Site, torch.Tensor]()

    handles = [output_projection(lm, site).register_forward_hook(_keeping(outputs, site)) for site in lm.layout]
    try:
        progress = within(request.progress, STAGE, 0, PARTS)
        for row in track(range(samples), progress, "Gradients", samples):
            ids, mask, decoder_ids, _ = (None if all_ is None else all_[row : row + 1].to(lm.device) for all_ in tokens)
            assert ids is not None
            with torch.enable_grad():
                hidden = lm.family.hidden_states(model, ids, mask, decoder_ids)
            with torch.no_grad():
                upstream = loss_gradient(lm.family.head(model), hidden[0].detach(), labels[row].to(lm.device))
            gradients = torch.autograd.grad(hidden, list(outputs.values()), upstream[None])
            for site, gradient in zip(outputs, gradients, strict=True):
                squares = gradient.float().square().sum(dim=(0, 1))
                totals[site] = totals[site].add_(squares) if site in totals else squares
            outputs.clear()
    finally:
        for handle in handles:
            handle.remove()
    return {site: total / predicted for site, total in totals.items()}


def _streamed_row_costs(request: Request) -> dict[Site, torch.Tensor]:
    """The sums of `row_costs` for a model with weights on disk."""
    lm, tokens, labels = request.lm, request.tokens(), read_labels(request.text())
    outputs, totals, handles = dict[Site, torch.Tensor](), dict[Site, torch.Tensor](), list[Any]()
    batches = [
        Inputs(*(None if all_ is None else all_[row : row + 1].to(lm.device) for all_ in tokens[:2]))  # type: ignore[arg-type]
        for row in range(len(labels))
    ]
    progress, total = within(request.progress, STAGE, 0, PARTS), 2 * len(batches) * len(lm.layout.layers())
    steps = itertools.count(1)

    def tick() -> None:
        report(progress, "Gradients", next(steps), total)

    def upstream(head: nn.Linear, hidden: torch.Tensor, batch: int) -> torch.Tensor:
        return loss_gradient(head, hidden[0], labels[batch].to(lm.device))[None]

    def begin(sites: list[Site]) -> None:
        for handle in handles:
            handle.remove()
        handles[:] = [output_projection(lm, site).register_forward_hook(_keeping(outputs, site)) for site in sites]

    def backward(_: int, states: torch.Tensor | None, output: torch.Tensor, above: torch.Tensor) -> torch.Tensor | None:
        wanted = list(outputs.values()) + ([] if states is None else [states])
        gradients = torch.autograd.grad(output, wanted, above)
        for site, gradient in zip(outputs, gradients, strict=False):
            squares = gradient.float().square().sum(dim=(0, 1))
            totals[site] = totals[site].add_(squares) if site in totals else squares
        outputs.clear()
        tick()
        return None if states is None else gradients[-1]

    try:
        streamed_backward(lm, batches, upstream, begin, backward, tick)
    finally:
        for handle in handles:
            handle.remove()
    return {site: totals[site] for site in lm.layout}


def _keeping(outputs: dict[Site, torch.Tensor], site: Site) -> Callable[..., None]:
    """A hook that keeps the output of a projection, with a gradient."""

    def after(_: nn.Module, __: object, output: torch.Tensor) -> None:
        outputs[site] = output if output.requires_grad else output.requires_grad_()

    return after


def removal_costs(weight: torch.Tensor, rows: torch.Tensor, moments: Moments, units: int) -> np.ndarray:
    """float32 (units,): cost of each unit's removal, for a weight (out, d), row weights (out,) and moments of x.

    A removal that costs no more than the previous one scores just above it, so that ranking keeps the order of removal.
    Computed in float64, on the weight's device if it has float64, else on the CPU. Units of inputs that are always zero
    score 0.
    """
    assert moments.second is not None
    place = torch.device("cpu") if weight.device.type == "mps" else weight.device
    second = torch.from_numpy(moments.second).to(place, torch.float64, copy=True)
    strength = float(REGULARISATION * second.diagonal().mean())
    scores = np.zeros(units, np.float32)
    if strength <= 0:
        return scores
    second.diagonal().add_(strength)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(second))
    exact = weight.to(place).double()
    loss = exact.T @ (exact * rows.to(place).double()[:, None])  # (d, d)
    size, left, highest = len(inverse) // units, np.arange(units), np.float32(0)
    while len(left):
        gone = _turns(inverse, loss, size, max(1, PENDING // size))
        for unit, price in zip(gone.places, gone.prices, strict=True):
            highest = scores[left[unit]] = max(np.float32(price), np.nextafter(highest, np.float32(np.inf)))
        stay = np.setdiff1d(np.arange(len(left)), gone.places)
        left = left[stay]
        columns = torch.from_numpy(stay[:, None] * size + np.arange(size)).flatten().to(place)
        reach, change, half = gone.reach[columns], gone.change[columns], gone.half[columns]
        inverse = inverse[columns][:, columns].addmm_(reach, change.T, alpha=-1)
        shift = half @ change.T
        loss = loss[columns][:, columns].sub_(shift).sub_(shift.T)
    return scores


class _Gone(NamedTuple):
    """Removed units in order, their costs, and the changes of the matrices: G^-1 by -reach change^T, and W^T a W by
    -(half change^T + change half^T).
    """

    places: list[int]
    prices: list[float]
    reach: torch.Tensor  # (d, columns)
    change: torch.Tensor  # (d, columns)
    half: torch.Tensor  # (d, columns)


def _turns(inverse: torch.Tensor, loss: torch.Tensor, size: int, most: int) -> _Gone:
    """Remove up to `most` units of `size` columns, the cheapest first; `inverse` and `loss` are unchanged. A removal
    needs only the diagonal blocks and the removed unit's columns of the updated matrices.
    """
    width = len(inverse)
    units = width // size
    most = min(most, units)
    reach, change, half = (inverse.new_zeros(width, most * size) for _ in range(3))
    blocks, losses = _diagonal_blocks(inverse, size), _diagonal_blocks(loss, size)
    there = torch.ones(units, dtype=torch.bool, device=inverse.device)
    places, prices = list[int](), list[float]()
    for turn in range(most):
        price = torch.where(there, _prices(blocks, losses), torch.inf)
        unit = int(price.argmin())
        places.append(unit)
        prices.append(float(price[unit]))
        there[unit] = False
        own, now = (slice(place * size, (place + 1) * size) for place in (unit, turn))
        past = slice(0, turn * size)
        inverse_columns = inverse[:, own] - reach[:, past] @ change[own, past].T
        loss_columns = loss[:, own] - half[:, past] @ change[own, past].T - change[:, past] @ half[own, past].T
        reach[:, now] = inverse_columns
        change[:, now] = torch.linalg.solve(inverse_columns[own], inverse_columns, left=False)
        half[:, now] = loss_columns - change[:, now] @ loss_columns[own] / 2
        parts = [values[:, now].reshape(units, size, size) for values in (reach, change, half)]
        blocks -= parts[0] @ parts[1].mT
        shift = parts[2] @ parts[1].mT
        losses -= shift + shift.mT
        blocks[unit] = torch.eye(size, dtype=blocks.dtype, device=blocks.device)  # removed, but not singular
    return _Gone(places, prices, reach, change, half)


def _diagonal_blocks(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """(d, d) -> a copy of its blocks on the diagonal, (d / size, size, size)."""
    units = len(matrix) // size
    index = torch.arange(units, device=matrix.device)
    return matrix.view(units, size, units, size)[index, :, index].clone()


def _prices(blocks: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """tr(loss block times inverse block^-1) of each unit, (units,)."""
    if blocks.shape[1] == 1:
        return (losses / blocks).flatten()
    prices: torch.Tensor = torch.linalg.solve(blocks, losses).diagonal(dim1=1, dim2=2).sum(dim=1)
    return prices
