"""Output projections that make up, in closed form, for inputs that go.

y = W x of the dense model is approximated by W' x_k + b from the inputs x_k that stay.

- bias (FLAP, arXiv 2312.11983): W' = W_k, and b = W_r E[x_r], the mean of what the removed inputs r contributed.
- least_squares: W' and b minimise E|W x - W' x_k - b|^2 + lambda |W' - W_k|^2, with C = E[x x^T] - E[x] E[x]^T:
  W' = W_k + W_r C_rk (C_kk + lambda I)^-1 and b = W_r E[x_r] - (W' - W_k) E[x_k].

lambda pulls towards the weights as they are, not towards zero, so the result is never worse on the tokens that the
moments are of than either bias or nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from nirvana.compensation import REGULARISATION
from nirvana.compensation.statistics import Moments
from nirvana.errors import CompensationError


class Update(NamedTuple):
    """What takes the place of an output projection: `weight` (out, kept) and what to add to its bias (out,)."""

    weight: torch.Tensor
    bias: torch.Tensor


def mean_bias(weight: torch.Tensor, kept: torch.Tensor, moments: Moments) -> Update:
    """The compensation "bias" of a weight (out, d) of which the columns `kept` (ascending int64) stay."""
    removed = _others(kept, weight.shape[1])
    mean = torch.from_numpy(moments.mean)
    exact, kept = _exact(weight), kept.to(weight.device)
    bias = exact[:, removed.to(exact.device)] @ mean[removed].to(exact.device)
    return Update(weight.index_select(1, kept), bias.to(weight))


def least_squares(
    weight: torch.Tensor, kept: torch.Tensor, moments: Moments, *, regularisation: float = REGULARISATION
) -> Update:
    """The compensation "least_squares" of a weight (out, d) of which the columns `kept` (ascending int64) stay.

    Solved by Cholesky in float64, where the weight lies if that device knows float64, else on the CPU.

    Args:
        regularisation: lambda, as a multiple of the mean variance of the kept inputs.

    Raises:
        CompensationError: there are no second moments, or they are numerically singular.
    """
    if moments.second is None:
        raise CompensationError("Least squares needs second moments, and there are means only.", "Collect them.")
    exact = _exact(weight)
    place = exact.device
    columns, removed = kept.to(place), _others(kept, weight.shape[1]).to(place)
    mean = torch.from_numpy(moments.mean).to(place)
    rows = torch.from_numpy(moments.second).to(place)[:, columns].double()  # (d, k)
    rows -= torch.outer(mean, mean[columns])
    covariance = rows[columns]  # (k, k)
    variance = covariance.diagonal().mean()
    bias = exact[:, removed] @ mean[removed]
    change = torch.zeros_like(exact[:, columns])
    if variance > 0:  # else the kept inputs are constants, which explain nothing
        covariance.diagonal().add_(regularisation * variance)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise CompensationError(
                f"The second moments are singular with a regularisation of {regularisation:g}.",
                "Raise the regularisation, or collect statistics from more tokens.",
            )
        change = torch.cholesky_solve((exact[:, removed] @ rows[removed]).T, factor).T
        bias -= change @ mean[columns]
    updated = exact[:, columns] + change
    return Update(updated.to(weight), bias.to(weight))


def _exact(weight: torch.Tensor) -> torch.Tensor:
    """In float64; Apple's devices have none."""
    values = weight.detach()
    return (values.cpu() if values.device.type == "mps" else values).double()


def _others(kept: torch.Tensor, width: int) -> torch.Tensor:
    """The columns that are not in `kept`, ascending."""
    gone = torch.ones(width, dtype=torch.bool)
    gone[kept.cpu()] = False
    return gone.nonzero().flatten()
