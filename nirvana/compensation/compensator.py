"""Compensation of one pruning: validated against the model before pruning, and recorded afterwards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from nirvana.compensation import METHODS, Compensation
from nirvana.compensation.closed_form import Update, least_squares, mean_bias
from nirvana.compensation.statistics import Statistics, input_widths
from nirvana.errors import CompensationError
from nirvana.layout import Site

if TYPE_CHECKING:
    from nirvana.models.lm import LM

COLLECT = "Collect them with nirvana.collect_statistics(lm, calibration)."


class Compensator:
    """Gives each output projection its update, e.g. `Compensator(lm, "bias", statistics, 0.0).update(site, ...)`.

    Raises:
        CompensationError: the method is unknown, or the statistics are missing, of another model, or lack second
            moments.
    """

    def __init__(self, lm: LM, method: Compensation, statistics: Statistics | None, regularisation: float) -> None:
        if method not in METHODS:
            raise CompensationError(f"There is no compensation {method!r}.", f"Use {', '.join(METHODS)}.")
        self.method = method
        self.regularisation = regularisation
        self.statistics = statistics if method != "none" else None
        if method == "none":
            return
        if statistics is None:
            raise CompensationError(f"The compensation {method} needs statistics.", COLLECT)
        if statistics.model_hash != lm.hash:
            raise CompensationError(f"The statistics are of another model than {lm.source.name}.", COLLECT)
        if {site: len(moments.mean) for site, moments in statistics.items()} != input_widths(lm):
            raise CompensationError("The statistics are of a model of another shape.", COLLECT)
        if method == "least_squares":
            if not statistics.has_second:
                raise CompensationError("Least squares needs second moments; there are only means.", COLLECT)
            if not (math.isfinite(regularisation) and regularisation >= 0):
                raise CompensationError(f"A regularisation cannot be {regularisation}.", "Use 0 or more, e.g. 0.001.")

    @property
    def stage(self) -> str:
        """Stage name of progress reports."""
        return "Slicing weights" if self.statistics is None else "Compensating"

    def update(self, site: Site, weight: torch.Tensor, kept: torch.Tensor) -> Update | None:
        """The update of the output projection of `site` with the columns `kept`; None without compensation.

        Raises:
            CompensationError: the statistics do not determine the weights.
        """
        if self.statistics is None:
            return None
        moments = self.statistics[site]
        if self.method == "bias":
            return mean_bias(weight, kept, moments)
        return least_squares(weight, kept, moments, regularisation=self.regularisation)

    def record(self) -> dict[str, Any] | None:
        """Method and statistics of the compensation, as JSON values; None without compensation."""
        if self.statistics is None:
            return None
        found: dict[str, Any] = {"method": self.method}
        if self.method == "least_squares":
            found["regularisation"] = self.regularisation
        found |= {"tokens": self.statistics.tokens, "sets": list(self.statistics.sets)}
        return found | {"statistics_hash": self.statistics.hash}
