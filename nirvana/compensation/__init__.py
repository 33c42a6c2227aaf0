"""Compensation: output projections compensate for the removed units."""

from __future__ import annotations

from typing import Literal

Compensation = Literal["none", "bias", "least_squares"]
METHODS: tuple[Compensation, ...] = ("none", "bias", "least_squares")
REGULARISATION = 1e-3  # lambda of least squares, as a multiple of the mean square of the kept inputs
