"""Closed forms by which output projections compensate for removed inputs.

y = W x of the dense model is approximated by W' x_k + b from the kept inputs x_k; x_r are the removed inputs.

- bias (FLAP, arXiv 2312.11983): W' = W_k, and b = W_r E[x_r], the mean contribution of the removed inputs.
- least_squares: b = 0, and W' minimises E|W x - W' x_k|^2 + lambda |W' - W_k|^2. With G = E[x x^T] that is W' = W_k +
  W_r G_rk (G_kk + lambda I)^-1. Regularised towards the present weights, not towards zero, it is never worse than no
  compensation on the tokens of G, for any lambda.

A bias could be fitted with the weights: on SmolLM2-135M that lowered the perplexity by 0.1 %. Many architectures have
no such bias and could then not be exported as plain models, so least squares adds none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from nirvana.compensation import REGULARISATION
from nirvana.compensation.statistics import Moments
from nirvana.errors import CompensationError


class Update(NamedTuple):
    """The new `weight` (out, kept) of an output projection, and the addition to its bias, (out,) or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None


def mean_bias(weight: torch.Tensor, kept: torch.Tensor, moments: Moments) -> Update:
    """The compensation "bias" of a weight (out, d) with the columns `kept` (ascending int64)."""
    removed, mean = _others(kept, weight.shape[1]), torch.from_numpy(moments.mean)
    exact = _exact(weight)
    bias = exact[:, removed.to(exact.device)] @ mean[removed].to(exact.device)
    return Update(weight.index_select(1, kept.to(weight.device)), bias.to(weight))


def least_squares(
    weight: torch.Tensor, kept: torch.Tensor, moments: Moments, *, regularisation: float = REGULARISATION
) -> Update:
    """The compensation "least_squares" of a weight (out, d) with the columns `kept` (ascending int64).

    Solved by Cholesky in float64, on the weight's device if it has float64, else on the CPU.

    Args:
        regularisation: lambda, as a multiple of the mean square of the kept inputs.

    Raises:
        CompensationError: second moments are missing or numerically singular.
    """
    if moments.second is None:
        raise CompensationError("Least squares needs second moments; there are only means.", "Collect them.")
    exact = _exact(weight)
    columns, removed = kept.to(exact.device), _others(kept, weight.shape[1]).to(exact.device)
    products = torch.from_numpy(moments.second).to(exact.device)[:, columns].double()  # (d, k)
    square = products[columns]  # (k, k)
    updated, size = exact[:, columns], square.diagonal().mean()
    if size > 0:  # otherwise the kept inputs are always zero
        square.diagonal().add_(regularisation * size)
        factor, failed = torch.linalg.cholesky_ex(square)
        if failed:
            raise CompensationError(
                f"The second moments are singular with a regularisation of {regularisation:g}.",
                "Raise the regularisation, or collect statistics from more tokens.",
            )
        updated = updated + torch.cholesky_solve((exact[:, removed] @ products[removed]).T, factor).T
    return Update(updated.to(weight), None)


def _exact(weight: torch.Tensor) -> torch.Tensor:
    """In float64, on the CPU where the device has none (Apple's)."""
    values = weight.detach()
    return (values.cpu() if values.device.type == "mps" else values).double()


def _others(kept: torch.Tensor, width: int) -> torch.Tensor:
    """The columns that are not in `kept`, ascending."""
    gone = torch.ones(width, dtype=torch.bool)
    gone[kept.cpu()] = False
    return gone.nonzero().flatten()
