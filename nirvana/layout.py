"""Prunable parts of a model: sites, their units, and the cost of each unit.

A `Site` is one prunable module of one layer, a unit is the smallest removable part of it: a KV group of an attention
module (its key and value head with all query heads that share them) or a neuron of an MLP. All values are plain data,
so allocation, figures and pages need neither model nor torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nirvana.files import whole_number, whole_numbers

ATTENTION, CROSS_ATTENTION, MLP = "attention", "cross_attention", "mlp"
KV_GROUP, NEURON = "KV group", "neuron"
MOST = 1 << 24  # units of a site


class Site(NamedTuple):
    """A prunable module, e.g. `Site("decoder", 5, "mlp")`; JSON key `decoder.5.mlp`.

    `layer` is the index in the original, dense model, also after layers have been removed.
    """

    stack: str
    layer: int
    module: str

    @property
    def key(self) -> str:
        return f"{self.stack}.{self.layer}.{self.module}"

    @classmethod
    def from_key(cls, key: str) -> Site:
        stack, layer, module = key.split(".", 2)
        if not layer.isdecimal() or len(layer) > 6:
            raise ValueError(f"{key[:60]!r} names no site")
        return cls(stack, int(layer), module)


class SiteLayout(NamedTuple):
    """The units of one site, e.g. `SiteLayout(units=1536, cost=1728, kind="neuron")`.

    `cost` is the number of weights removed with one unit; `kind` is the kind of unit, which determines its ranking.
    `biases` are removed with a unit but do not count in the sparsity. `output_bias` is the size of the output
    projection's bias, which belongs to no unit: the hidden size, or 0 without one.
    """

    units: int
    cost: int
    kind: str
    biases: int = 0
    output_bias: int = 0

    @property
    def parameters(self) -> int:
        return self.units * self.cost


class PlainForm(NamedTuple):
    """Requirements of a plain checkpoint, beyond equal widths: its config has one number for all layers.

    `same_units`: (stack, module) whose layers must keep the same units. `groups_divide`: the number of KV groups in a
    layer must divide this; 0 for no constraint.
    """

    same_units: tuple[tuple[str, str], ...] = ()
    groups_divide: int = 0


ANY_FORM = PlainForm()


@dataclass(frozen=True)
class Layout(Mapping[Site, SiteLayout]):
    """Site -> SiteLayout, in model order, with the model's other parameters.

    `other` counts, by part, the parameters that are never pruned, e.g. `{"embeddings": 28311552, "norms": 35136}`, so
    that `parameters` is the whole model's count. `architecture` is the transformers class name, and `plain` the
    requirements of its plain checkpoints.
    """

    sites: dict[Site, SiteLayout]
    other: dict[str, int] = field(default_factory=dict)
    architecture: str = ""
    plain: PlainForm = ANY_FORM

    def __getitem__(self, site: Site) -> SiteLayout:
        return self.sites[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def prunable(self) -> int:
        """Parameters in attention and MLP blocks, the denominator of every sparsity."""
        return sum(site.parameters for site in self.sites.values())

    @property
    def parameters(self) -> int:
        """All parameters of the model, tied weights counted once."""
        biases = sum(site.units * site.biases + site.output_bias for site in self.sites.values())
        return self.prunable + biases + sum(self.other.values())

    def pool(self, kind: str) -> list[Site]:
        """The sites whose units are of `kind`, in model order."""
        return [site for site, layout in self.sites.items() if layout.kind == kind]

    def pool_parameters(self, kind: str) -> int:
        return sum(self.sites[site].parameters for site in self.pool(kind))

    def layers(self, stack: str = "decoder") -> list[int]:
        """Original indices of the layers present in `stack`, in order."""
        return sorted({site.layer for site in self.sites if site.stack == stack})

    @property
    def stacks(self) -> list[str]:
        return list(dict.fromkeys(site.stack for site in self.sites))

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "sites": {site.key: list(layout) for site, layout in self.sites.items()},
            "other": dict(self.other),
            "plain": {"same_units": list(map(list, self.plain.same_units)), "groups_divide": self.plain.groups_divide},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        sites = {Site.from_key(key): _site_layout(*value) for key, value in data["sites"].items()}
        plain = data.get("plain", {})  # absent in files of older versions
        same = tuple((str(stack), str(module)) for stack, module in plain.get("same_units", ()))
        form = PlainForm(same, whole_number(plain.get("groups_divide", 0)))
        other = {str(name): whole_number(count) for name, count in data.get("other", {}).items()}
        return cls(sites, other, str(data.get("architecture", "")), form)


def kept_units(data: Mapping[str, Any]) -> dict[Site, np.ndarray]:
    """Site -> int64 unit indices, from a JSON object of lists by site key.

    Raises:
        ValueError: a key names no site, or a list does not hold whole numbers.
    """
    found = {}
    for key, units in data.items():
        try:
            found[Site.from_key(key)] = whole_numbers(units)
        except ValueError as error:
            raise ValueError(f"{key[:60]}: {error}") from error
    return found


def _site_layout(units: Any, cost: Any, kind: Any, biases: Any = 0, output_bias: Any = 0) -> SiteLayout:
    if kind not in (KV_GROUP, NEURON):
        raise ValueError(f"{str(kind)[:40]!r} is no kind of unit")
    return SiteLayout(
        whole_number(units, MOST), whole_number(cost), kind, whole_number(biases), whole_number(output_bias)
    )
