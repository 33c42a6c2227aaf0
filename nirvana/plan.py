"""PruningPlan: the kept units, as plain data that can be saved, read and composed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from nirvana.costs import Predicted
from nirvana.errors import PlanError
from nirvana.files import json_hash, well_formed, whole_number
from nirvana.layout import Layout, Site, SiteLayout, kept_units


@dataclass(frozen=True, eq=False)
class PruningPlan(Mapping[Site, np.ndarray]):
    """Site -> kept unit indices (ascending int64), relative to the model that the plan applies to.

    `plan[Site("decoder", 5, "mlp")]` of shape (kept units,). Sites of `removed_layers` are absent from the mapping.
    `requested` and `sparsity` are fractions of the prunable parameters: the target and the achieved value. `method` is
    the rule that chose them (a key of `nirvana.allocation.rules.RULES`), and `uniform` requests equal widths in all
    layers. `normalisation`: exponent of the score normalisation (see `allocate`). `notes` describe where a constraint
    moved the budget, and `edits` are those made by hand (see `nirvana.edit_plan`).

    With another `budget` than "parameters", `requested` and `achieved` are shares of it, and `sparsity` is that of the
    parameters all the same. `predicted`: time or bytes before and after, where a cost table was given.

    Raises:
        PlanError: indices are out of range, repeated, unsorted or empty, or the sites do not match the layout.
    """

    kept: dict[Site, np.ndarray]
    layout: Layout
    requested: float
    gamma: float
    multiple_of: int = 1
    protected: tuple[Site, ...] = ()
    removed_layers: tuple[tuple[str, int], ...] = ()  # (stack, original index)
    notes: tuple[str, ...] = ()
    method: str = "shared"
    uniform: bool = False
    normalisation: float = 0.0
    edits: tuple[str, ...] = ()
    budget: str = "parameters"
    predicted: Predicted | None = None

    def __post_init__(self) -> None:
        expected = [site for site in self.layout if (site.stack, site.layer) not in self.removed_layers]
        if list(self.kept) != expected:
            raise PlanError("The plan covers other sites than the model's layout.", "Allocate again for this model.")
        for site, kept in self.kept.items():
            units = self.layout[site].units
            if kept.ndim != 1 or kept.size == 0 or not np.issubdtype(kept.dtype, np.integer):
                raise PlanError(f"{site.key}: a plan keeps at least one unit, as integer indices.", "Correct it.")
            if kept[0] < 0 or kept[-1] >= units or (np.diff(kept) <= 0).any():
                raise PlanError(
                    f"{site.key}: kept indices must ascend within 0..{units - 1}.", "Correct the plan's indices."
                )

    def __getitem__(self, site: Site) -> np.ndarray:
        return self.kept[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def widths(self) -> dict[Site, int]:
        """Site -> number of kept units."""
        return {site: len(kept) for site, kept in self.kept.items()}

    @cached_property
    def hash(self) -> str:
        """Hash of the kept units: plans with equal ones make equal models."""
        return json_hash({site.key: kept.tolist() for site, kept in self.kept.items()})

    @property
    def removed(self) -> int:
        """Removed prunable parameters."""
        return self.layout.prunable - sum(len(kept) * self.layout[site].cost for site, kept in self.kept.items())

    @property
    def sparsity(self) -> float:
        """Achieved: removed over prunable parameters."""
        return self.removed / self.layout.prunable

    @property
    def achieved(self) -> float:
        """Removed share of the budget; NaN where its costs are unknown, after edits of a plan by time."""
        if self.budget != "parameters" and self.predicted is not None:
            return self.predicted.share
        return math.nan if self.budget == "latency" else self.sparsity

    def rate(self, kind: str) -> float:
        """Removed share of the parameters of one kind of unit, e.g. `plan.rate("KV group")`."""
        sites = self.layout.pool(kind)
        total = sum(self.layout[site].parameters for site in sites)
        kept = sum(len(self.kept.get(site, ())) * self.layout[site].cost for site in sites)
        return 1 - kept / total if total else 0.0

    @property
    def pruned_layout(self) -> Layout:
        """The layout after pruning with this plan; parameters outside the sites are unchanged."""
        sites = {site: self.layout[site]._replace(units=len(kept)) for site, kept in self.kept.items()}
        return replace(self.layout, sites=sites)

    def then(self, second: PruningPlan, *, requested: float) -> PruningPlan:
        """Compose this plan with `second`, a plan of the pruned model; `requested` is the total target.

        Raises:
            PlanError: `second` was not made for the model pruned by this plan.
        """
        if _without_output_biases(second.layout) != _without_output_biases(self.pruned_layout):
            raise PlanError("The second plan is not for the model pruned by the first.", "Score that model.")
        return replace(
            self,
            kept={site: self.kept[site][kept] for site, kept in second.kept.items()},
            requested=requested,
            removed_layers=tuple(sorted({*self.removed_layers, *second.removed_layers})),
            notes=second.notes,
            predicted=None,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "layout": self.layout.to_json(),
            "requested": self.requested,
            "sparsity": self.sparsity,
            "method": self.method,
            "uniform": self.uniform,
            "gamma": "inf" if math.isinf(self.gamma) else self.gamma,
            **({"normalisation": self.normalisation} if self.normalisation else {}),  # older plans lack it
            "multiple_of": self.multiple_of,
            "protected": [site.key for site in self.protected],
            "removed_layers": [list(layer) for layer in self.removed_layers],
            "notes": list(self.notes),
            **({"edits": list(self.edits)} if self.edits else {}),
            **({"budget": self.budget} if self.budget != "parameters" else {}),
            **({"predicted": self.predicted.to_json()} if self.predicted is not None else {}),
            "kept": {site.key: kept.tolist() for site, kept in self.kept.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PruningPlan:
        """Read what `to_json` wrote.

        Raises:
            PlanError: a field is missing, or the indices do not fit the layout.
        """
        with well_formed("This is not a pruning plan", PlanError, "Save one with plan.to_json()."):
            return cls(
                kept=kept_units(data["kept"]),
                layout=Layout.from_json(data["layout"]),
                requested=_share(data["requested"]),
                gamma=_not_negative(data["gamma"]),
                multiple_of=whole_number(data["multiple_of"], 1 << 16),
                protected=tuple(Site.from_key(key) for key in data["protected"]),
                removed_layers=tuple(
                    (str(stack), whole_number(layer, 1_000_000)) for stack, layer in data["removed_layers"]
                ),
                notes=tuple(map(str, data["notes"])),
                method=str(data.get("method", "shared")),  # the only rule in older plans
                uniform=bool(data.get("uniform", False)),
                normalisation=_share(data.get("normalisation", 0.0)),
                edits=tuple(map(str, data.get("edits", ()))),
                budget=str(data.get("budget", "parameters")),
                predicted=Predicted.from_json(data["predicted"]) if "predicted" in data else None,
            )


def _without_output_biases(layout: Layout) -> dict[Site, SiteLayout]:
    """The sites without the biases of output projections, which a compensation may have added after pruning."""
    return {site: place._replace(output_bias=0) for site, place in layout.items()}


def _share(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{str(value)[:40]!r} does not lie between 0 and 1")
    return number


def _not_negative(value: Any) -> float:
    number = float(value)
    if not number >= 0:
        raise ValueError(f"{str(value)[:40]!r} is below 0")
    return number
