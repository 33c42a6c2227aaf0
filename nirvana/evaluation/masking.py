"""A pruned model in place: removed units are zero columns of the output projections, the others compensated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from nirvana.compensation.compensator import Compensator
from nirvana.forward.projections import output_projection
from nirvana.layout import Site
from nirvana.models.lm import LM
from nirvana.models.weights import linear_layer, output_part, unit_rows
from nirvana.saliency.scores import Saliency


class Masked(NamedTuple):
    """Weight (out, in) of an output projection, and its bias (out,) or None."""

    weight: nn.Parameter
    bias: nn.Parameter | None


class Masks:
    """Output projections of `lm` without some units of their sites, e.g. the lowest-scored (ties: lower index first).

    The model computes as if it were pruned and keeps its shapes, so nothing is copied or sliced.
    """

    def __init__(self, lm: LM, saliency: Saliency, compensator: Compensator) -> None:
        self._lm, self._saliency, self._compensator = lm, saliency, compensator

    def projection(self, site: Site, removed: int) -> Masked:
        """The output projection of `site` without its `removed` lowest-scored units.

        Raises:
            CompensationError: the statistics do not determine the weights.
        """
        return self.of(site, np.sort(np.argsort(self._saliency[site], kind="stable")[removed:]))

    def of(self, site: Site, units: np.ndarray) -> Masked:
        """The output projection of `site` with the columns of `units` only, ascending; raises like `projection`."""
        linear = linear_layer(self._lm.block(site.stack, site.layer), output_part(self._lm, site))
        kept = unit_rows(torch.from_numpy(units), output_part(self._lm, site).size)
        weight, bias = linear.weight, linear.bias
        with torch.no_grad():
            update = self._compensator.update(site, weight, kept)
            masked = torch.zeros_like(weight)
            columns = kept.to(weight.device)
            masked[:, columns] = weight[:, columns] if update is None else update.weight
            if update is not None and update.bias is not None:
                bias = nn.Parameter(update.bias if bias is None else bias + update.bias, requires_grad=False)
        return Masked(nn.Parameter(masked, requires_grad=False), bias)

    @contextmanager
    def applied(self, masked: Mapping[Site, Masked]) -> Iterator[None]:
        """`masked` in place of the model's own projections within the context."""
        with ExitStack() as stack:
            for site, replaced in masked.items():
                stack.enter_context(self._replaced(site, replaced))
            yield

    @contextmanager
    def _replaced(self, site: Site, masked: Masked) -> Iterator[None]:
        self._lm.release()  # a block that is dropped meanwhile must not come back
        linear = output_projection(self._lm, site)
        own = linear.weight, linear.bias
        linear.weight, linear.bias = masked.weight, masked.bias  # type: ignore[assignment]
        try:
            yield
        finally:
            self._lm.release()
            linear.weight, linear.bias = own
