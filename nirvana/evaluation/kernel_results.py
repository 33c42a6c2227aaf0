"""Change of the tangent kernel by pruning, at each of several inputs. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nirvana.errors import PlanError
from nirvana.files import well_formed

ARRAYS = ("dense", "pruned", "lost", "saliency", "dense_output", "pruned_output")


@dataclass(frozen=True, eq=False)
class KernelShift:
    """Diagonal of the SignGD tangent kernel, Theta(x, x) = ||grad f(x)||_1, before and after pruning.

    f is NIRVANA's objective on the one input x: the mean over vocabulary entries of the maximum over positions of the
    logits. The gradient is by all parameters of the model; those of removed units are `lost`. Every array is float64
    (N,), one value an input, and every quantity of an input is of the same x.

    Attributes:
        dense, pruned: ||grad f(x)||_1 of the two models, in units of f per weight.
        lost: sum of |grad f(x)| of the dense model over the weights and biases of removed units.
        saliency: eps(x), the sum of |grad f(x) * W| over removed weights, in units of f.
        dense_output, pruned_output: f(x).
        protocol: model, plan, samples, length, hash of the inputs, sparsity, device and dtype.
    """

    dense: np.ndarray
    pruned: np.ndarray
    lost: np.ndarray
    saliency: np.ndarray
    dense_output: np.ndarray
    pruned_output: np.ndarray
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def shift(self) -> np.ndarray:
        """(N,) change of the kernel, `remaining - lost`."""
        return np.asarray(self.pruned - self.dense)

    @property
    def remaining(self) -> np.ndarray:
        """(N,) change of the sum of |grad f(x)| over the parameters that remain.

        T5's position biases of removed heads count as remaining: all layers share their table.
        """
        return np.asarray(self.pruned - (self.dense - self.lost))

    @property
    def output_shift(self) -> np.ndarray:
        """(N,) change of f(x), which `saliency` bounds to first order."""
        return np.asarray(self.pruned_output - self.dense_output)

    def relative(self, part: str = "shift") -> np.ndarray:
        """(N,) "shift", "remaining" or "lost" over the dense kernel, in absolute value."""
        return np.asarray(np.abs(getattr(self, part)) / self.dense)

    def to_json(self) -> dict[str, Any]:
        arrays = {name: [float(value) for value in getattr(self, name)] for name in ARRAYS}
        return {"version": 1, "protocol": dict(self.protocol), **arrays}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KernelShift:
        """Read what `to_json` wrote.

        Raises:
            PlanError: it is something else.
        """
        with well_formed("This is no saved kernel shift", PlanError, "Measure it again."):
            arrays = {name: np.array(data[name], dtype=np.float64) for name in ARRAYS}
            if any(each.shape != (len(arrays["dense"]),) for each in arrays.values()):
                raise ValueError("its arrays differ in shape")
            return cls(**arrays, protocol=dict(data["protocol"]))
