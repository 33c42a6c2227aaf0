"""Cost tables: seconds or bytes of a model's modules by their size. Does not import torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from nirvana.errors import PlanError
from nirvana.files import json_hash, parse_json, well_formed, whole_number
from nirvana.layout import Layout, Site

SECONDS, BYTES = "seconds", "bytes"
PHASES = ("prefill", "decode")
MOST_SIZES = 1 << 16


class SizeCosts(NamedTuple):
    """Cost of one kind of module by its units.

    `sizes`: numbers of units, ascending; `costs` at these sizes never fall. `weights`: weights of one unit, which tell
    models apart.
    """

    sizes: tuple[int, ...]
    costs: tuple[float, ...]
    weights: int

    def at(self, units: Any) -> Any:
        """Cost at a number of units, or at an array of them: linear between the sizes, constant beyond them."""
        return np.interp(units, self.sizes, self.costs)


@dataclass(frozen=True)
class Predicted:
    """Cost of a model before and after a plan, by a cost table.

    Attributes:
        dense, pruned: of the whole model, in the table's unit.
        prunable: of all attention and MLP modules before pruning.
        removed: by which the plan reduces that.
        protocol: of the table.
    """

    dense: float
    pruned: float
    prunable: float
    removed: float
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """ "seconds" or "bytes"."""
        return str(self.protocol.get("unit", SECONDS))

    @property
    def share(self) -> float:
        """Removed share of the modules' cost."""
        return self.removed / self.prunable if self.prunable else 0.0

    @property
    def ratio(self) -> float:
        """Dense over pruned: for seconds, the predicted speed-up."""
        return self.dense / self.pruned if self.pruned else math.inf

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Predicted:
        dense, pruned, prunable, removed = (_amount(data[name]) for name in ("dense", "pruned", "prunable", "removed"))
        return cls(dense, pruned, prunable, removed, dict(data["protocol"]))


@dataclass(frozen=True, eq=False)
class CostTable:
    """Cost of every part of a model: `modules` by (stack, module), e.g. ("decoder", "mlp"), and what is never pruned.

    Modules that a phase does not run, such as an encoder while decoding, are absent and cost nothing.

    Attributes:
        blocks: stack -> cost of one layer outside its modules: norms and residual sums.
        fixed: of everything outside the layers: embeddings, final norm, output head.
        protocol: "unit", which is "seconds" or "bytes"; for seconds also phase, batch, length, device, threads, dtype,
            repeats, architecture and versions.
    """

    modules: Mapping[tuple[str, str], SizeCosts]
    blocks: Mapping[str, float] = field(default_factory=dict)
    fixed: float = 0.0
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        return str(self.protocol.get("unit", SECONDS))

    @cached_property
    def hash(self) -> str:
        return json_hash(self.to_json())

    def cost(self, site: Site, units: Any) -> Any:
        """Cost of a site with so many units; 0 for a site without any, or that the phase does not run."""
        found = self.modules.get((site.stack, site.module))
        return np.where(np.asarray(units) > 0, 0.0 if found is None else found.at(units), 0.0)

    def prunable(self, widths: Mapping[Site, int]) -> float:
        """Cost of the attention and MLP modules with these numbers of units."""
        return float(sum(float(self.cost(site, units)) for site, units in widths.items()))

    def total(self, widths: Mapping[Site, int]) -> float:
        """Cost of the whole model with these numbers of units; layers without a site are removed ones."""
        layers = {(site.stack, site.layer) for site in widths}
        around = sum(self.blocks.get(stack, 0.0) for stack, _ in layers)
        return self.fixed + float(around) + self.prunable(widths)

    def predict(self, layout: Layout, widths: Mapping[Site, int]) -> Predicted:
        """Cost of a model of `layout`, and of the one pruned to `widths`.

        Raises:
            PlanError: the table is of another model.
        """
        self.check(layout)
        before = {site: place.units for site, place in layout.items()}
        prunable = self.prunable(before)
        removed = prunable - self.prunable(widths)
        return Predicted(self.total(before), self.total(widths), prunable, removed, dict(self.protocol))

    def check(self, layout: Layout) -> None:
        """Check that the table was made for a model of this shape, or for the one that it was pruned from.

        Raises:
            PlanError: it was made for another one.
        """
        for site, place in layout.items():
            found = self.modules.get((site.stack, site.module))
            if found is not None and (found.weights != place.cost or found.sizes[-1] < place.units):
                raise PlanError(f"The cost table does not fit {site.key}.", "Measure the costs of this model.")
        if not any((site.stack, site.module) in self.modules for site in layout):
            raise PlanError("The cost table has no module of this model.", "Measure the costs of this model.")

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "protocol": dict(self.protocol),
            "fixed": self.fixed,
            "blocks": dict(self.blocks),
            "modules": {
                f"{stack}.{module}": {"weights": kind.weights, "sizes": list(kind.sizes), "costs": list(kind.costs)}
                for (stack, module), kind in self.modules.items()
            },
        }

    def to_bytes(self) -> bytes:
        return json.dumps(self.to_json()).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> CostTable:
        """Read what `to_bytes` wrote.

        Raises:
            PlanError: it is something else.
        """
        with well_formed("This is no cost table", PlanError, "Measure the costs again."):
            return cls.from_json(parse_json(content))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CostTable:
        """Read what `to_json` wrote.

        Raises:
            PlanError: it is something else.
        """
        with well_formed("This is no cost table", PlanError, "Measure the costs again."):
            modules = {_module(key): _size_costs(**kind) for key, kind in data["modules"].items()}
            blocks = {str(stack): _amount(cost) for stack, cost in data["blocks"].items()}
            return cls(modules, blocks, _amount(data["fixed"]), dict(data["protocol"]))


@dataclass(frozen=True, eq=False)
class CostTables:
    """Cost tables of one model, e.g. one for each phase."""

    tables: tuple[CostTable, ...] = ()

    def find(self, phase: str, batch: int, length: int) -> CostTable | None:
        """The newest table of seconds with this protocol."""
        wanted = {"unit": SECONDS, "phase": phase, "batch": batch, "length": length}
        return next((table for table in reversed(self.tables) if wanted.items() <= table.protocol.items()), None)

    def adding(self, others: CostTables) -> CostTables:
        """These tables, with those of `others` in place of ones with the same protocol."""
        same = ("unit", "phase", "batch", "length", "device", "threads", "dtype")
        found = {tuple(table.protocol.get(name) for name in same): table for table in (*self.tables, *others.tables)}
        return CostTables(tuple(found.values()))

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, "tables": [table.to_json() for table in self.tables]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CostTables:
        """Read what `to_json` wrote.

        Raises:
            PlanError: it is something else.
        """
        with well_formed("These are no cost tables", PlanError, "Measure the costs again."):
            return cls(tuple(CostTable.from_json(each) for each in data["tables"]))


def _module(key: str) -> tuple[str, str]:
    stack, _, module = key.partition(".")
    if not stack or not module:
        raise ValueError(f"{key[:60]!r} names no module")
    return stack, module


def _size_costs(weights: Any, sizes: Iterable[Any], costs: Iterable[Any]) -> SizeCosts:
    found = SizeCosts(tuple(map(whole_number, sizes)), tuple(map(_amount, costs)), whole_number(weights))
    if not 0 < len(found.sizes) == len(found.costs) <= MOST_SIZES:
        raise ValueError("sizes and costs have different numbers")
    if (np.diff(found.sizes) <= 0).any() or (np.diff(found.costs) < 0).any():
        raise ValueError("sizes must ascend, and costs must not fall")
    return found


def _amount(value: Any) -> float:
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{str(value)[:40]!r} is no amount")
    return number
