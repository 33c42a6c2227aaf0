"""Output projections that make up, in closed form, for inputs that go.

y = W x of the dense model is approximated by W' x_k + b from the inputs x_k that stay; x_r are those that go.

- bias (FLAP, arXiv 2312.11983): W' = W_k, and b = W_r E[x_r], the mean of what the removed inputs contributed.
- least_squares: b = 0, and W' minimises E|W x - W' x_k|^2 + lambda |W' - W_k|^2. With G = E[x x^T] that is
  W' = W_k + W_r G_rk (G_kk + lambda I)^-1. Pulled towards the weights as they are, not towards zero, it is never worse
  than no compensation on the tokens that G is of, whatever lambda is.

A bias could be fitted with the weights: on SmolLM2-135M that lowered the perplexity by 0.1 %. Many architectures have
no place for one, and it would keep their plain exports from being written, so least squares adds none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from nirvana.compensation import REGULARISATION
from nirvana.compensation.statistics import Moments
from nirvana.errors import CompensationError


class Update(NamedTuple):
    """The new `weight` (out, kept) of an output projection, and what to add to its bias, (out,) or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None


def mean_bias(weight: torch.Tensor, kept: torch.Tensor, moments: Moments) -> Update:
    """The compensation "bias" of a weight (out, d) of which the columns `kept` (ascending int64) stay."""
    removed, mean = _others(kept, weight.shape[1]), torch.from_numpy(moments.mean)
    exact = _exact(weight)
    bias = exact[:, removed.to(exact.device)] @ mean[removed].to(exact.device)
    return Update(weight.index_select(1, kept.to(weight.device)), bias.to(weight))


def least_squares(
    weight: torch.Tensor, kept: torch.Tensor, moments: Moments, *, regularisation: float = REGULARISATION
) -> Update:
    """The compensation "least_squares" of a weight (out, d) of which the columns `kept` (ascending int64) stay.

    Solved by Cholesky in float64, where the weight lies if that device knows float64, else on the CPU.

    Args:
        regularisation: lambda, as a multiple of the mean square of the inputs that stay.

    Raises:
        CompensationError: there are no second moments, or they are numerically singular.
    """
    if moments.second is None:
        raise CompensationError("Least squares needs second moments, and there are means only.", "Collect them.")
    exact = _exact(weight)
    columns, removed = kept.to(exact.device), _others(kept, weight.shape[1]).to(exact.device)
    products = torch.from_numpy(moments.second).to(exact.device)[:, columns].double()  # (d, k)
    square = products[columns]  # (k, k)
    updated, size = exact[:, columns], square.diagonal().mean()
    if size > 0:  # else the inputs that stay are always zero
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
    """In float64; Apple's devices have none."""
    values = weight.detach()
    return (values.cpu() if values.device.type == "mps" else values).double()


def _others(kept: torch.Tensor, width: int) -> torch.Tensor:
    """The columns that are not in `kept`, ascending."""
    gone = torch.ones(width, dtype=torch.bool)
    gone[kept.cpu()] = False
    return gone.nonzero().flatten()
