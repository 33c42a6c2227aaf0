"""A network of two weights, f(x) = w2 tanh(w1 x), on which the paper's formulas can be followed by hand.

It is one neuron: w1 is its row of the input projection, w2 its column of the output projection.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Toy(NamedTuple):
    """Two weights and an input."""

    w1: float
    w2: float
    x: float

    @property
    def output(self) -> float:
        """f(x)."""
        return float(output(self.w1, self.w2, self.x))

    @property
    def gradient(self) -> tuple[float, float]:
        """(df/dw1, df/dw2)."""
        inner = math.tanh(self.w1 * self.x)
        return self.w2 * self.x * (1 - inner * inner), inner

    @property
    def kernel(self) -> float:
        """Theta(x, x) under SignGD: the inner product of the gradient with its signs, ||grad f(x)||_1."""
        return sum(map(abs, self.gradient))

    @property
    def saliency(self) -> tuple[float, float]:
        """|df/dw * w| of each weight, NIRVANA's score."""
        first, second = self.gradient
        return abs(first * self.w1), abs(second * self.w2)

    def step(self, size: float) -> Toy:
        """The weights after one step of sign ascent: each moves by `size` times the sign of its gradient."""
        first, second = (np.sign(part) for part in self.gradient)
        return self._replace(w1=self.w1 + size * float(first), w2=self.w2 + size * float(second))

    def without(self, weight: int) -> Toy:
        """The network without weight 1 or 2, which is 0 then."""
        return self._replace(w1=0.0) if weight == 1 else self._replace(w2=0.0)

    def change(self, weight: int) -> float:
        """True change of f by the removal of a weight."""
        return self.without(weight).output - self.output

    def first_order(self, weight: int) -> float:
        """Predicted change of f by the removal of a weight: -df/dw * w."""
        return -self.gradient[weight - 1] * (self.w1 if weight == 1 else self.w2)


def output(w1: np.ndarray | float, w2: np.ndarray | float, x: float) -> np.ndarray | float:
    """f over arrays of weights that broadcast."""
    return w2 * np.tanh(np.multiply(w1, x))
