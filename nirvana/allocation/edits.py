"""Edits of a plan by hand: units and layers that it keeps or removes, whatever the rule chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from nirvana.errors import PlanError
from nirvana.layout import Layout, Site
from nirvana.plan import PruningPlan

Layer = tuple[str, int]  # (stack, original index)
KEEP, REMOVE = "keep", "remove"
HOW = 'Write e.g. "keep decoder.5.mlp.17,20-31", "remove decoder.5.attention.0" or "remove decoder.5".'
MOST_WORDS = 10_000


@dataclass(frozen=True)
class Edits:
    """Site -> unit -> whether it stays, and layer -> whether it stays whole (True) or is removed (False)."""

    units: Mapping[Site, Mapping[int, bool]] = field(default_factory=dict)
    layers: Mapping[Layer, bool] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """One edit of a layer or of units of a site each, as `read_edits` reads them."""
        found = [f"{_verb(kept)} {stack}.{layer}" for (stack, layer), kept in self.layers.items()]
        for site, units in self.units.items():
            for kept in (True, False):
                chosen = sorted(unit for unit, stays in units.items() if stays == kept)
                if chosen:
                    found.append(f"{_verb(kept)} {site.key}.{_ranges(chosen)}")
        return tuple(found)

    def with_unit(self, site: Site, unit: int, kept: bool | None) -> Edits:
        """A copy in which a unit is kept, removed, or with None left to the rule."""
        own = {each: stays for each, stays in self.units.get(site, {}).items() if each != unit}
        if kept is not None:
            own[unit] = kept
        others = {each: units for each, units in self.units.items() if each != site}
        return replace(self, units=others | ({site: own} if own else {}))

    def with_layer(self, layer: Layer, kept: bool | None) -> Edits:
        """A copy in which a layer is kept whole, removed, or with None left to the rule; its units' edits go."""
        layers = {each: stays for each, stays in self.layers.items() if each != layer}
        units = {site: own for site, own in self.units.items() if (site.stack, site.layer) != layer}
        return Edits(units, layers if kept is None else layers | {layer: kept})


def read_edits(words: Iterable[str], layout: Layout) -> Edits:
    """Edits from words such as "keep decoder.5.mlp.17,20-31" or "remove decoder.5", in model order.

    Raises:
        PlanError: a word has another form, names no unit or layer of this model, or contradicts another.
    """
    units: dict[Site, dict[int, bool]] = {}
    layers: dict[Layer, bool] = {}
    known = {(site.stack, site.layer) for site in layout}
    for number, word in enumerate(words):
        if number == MOST_WORDS:
            raise PlanError(f"There are more than {MOST_WORDS:,} edits.", "Join units of a module in one edit.")
        kept, target = _verb_and_target(word)
        if target.count(".") == 1:
            layer = _layer(target, word)
            if layer not in known:
                raise PlanError(f"There is no layer {target} in this model.", HOW)
            if layers.setdefault(layer, kept) != kept:
                raise PlanError(f"Layer {target} is both kept and removed.", "Leave out one of the two edits.")
            continue
        site, chosen = _site_and_units(target, word, layout)
        own = units.setdefault(site, {})
        for unit in chosen:
            if own.setdefault(unit, kept) != kept:
                raise PlanError(f"Unit {unit} of {site.key} is both kept and removed.", "Leave out one of the two.")
    ordered = dict.fromkeys((site.stack, site.layer) for site in layout)
    return Edits(
        {site: units[site] for site in layout if site in units},
        {layer: layers[layer] for layer in ordered if layer in layers},
    )


def edit_plan(plan: PruningPlan, edits: Edits | Iterable[str]) -> PruningPlan:
    """The plan with units and layers kept or removed by hand; all others stay as they are.

    The budget is not restored, so the sparsity changes. Kept layers keep all their units, except those removed one by
    one. Edits are recorded in the plan's `edits`, and a predicted time is dropped.

    Args:
        edits: words such as "keep decoder.5.mlp.17,20-31", "remove decoder.5.attention.0" or "remove decoder.5".

    Raises:
        PlanError: an edit names no part of the model, contradicts another, empties a module or a stack, removes from a
            protected module, or the plan has equal widths.
    """
    chosen = edits if isinstance(edits, Edits) else read_edits(edits, plan.layout)
    if not chosen.words:
        return plan
    if plan.uniform:
        raise PlanError("A plan of equal widths cannot be edited by unit.", "Allocate without equal widths first.")
    gone = _removed_layers(plan, chosen.layers)
    kept = {}
    for site in plan.layout:
        layer = (site.stack, site.layer)
        if layer in gone:
            if site in chosen.units:
                raise PlanError(
                    f"Layer {site.layer} is removed, so its units cannot be edited.",
                    "Keep the layer, or leave them out.",
                )
            continue
        kept[site] = _edited(plan, site, chosen.layers.get(layer) is True, chosen.units.get(site, {}))
    edits = (*plan.edits, *chosen.words)
    edited = replace(plan, kept=kept, removed_layers=tuple(sorted(gone)), edits=edits, predicted=None)
    note = f"Edited by hand: {describe(chosen)}. Sparsity {edited.sparsity:.2%} in place of {plan.sparsity:.2%}."
    return replace(edited, notes=(note, *plan.notes))


def describe(edits: Edits) -> str:
    """E.g. "2 units kept, 1 layer removed"."""
    units = [kept for own in edits.units.values() for kept in own.values()]
    parts = []
    for noun, states in (("layer", list(edits.layers.values())), ("unit", units)):
        for kept in (True, False):
            number = states.count(kept)
            if number:
                parts.append(f"{number:,} {noun}{'s' * (number > 1)} {'kept' if kept else 'removed'}")
    return ", ".join(parts)


def _edited(plan: PruningPlan, site: Site, whole: bool, own: Mapping[int, bool]) -> np.ndarray:
    stays = np.full(plan.layout[site].units, whole)
    stays[plan.kept.get(site, ())] = True
    for unit, kept in own.items():
        stays[unit] = kept
    if not stays.any():
        raise PlanError(f"{site.key} would keep no unit.", "Keep one of them, or remove the whole layer.")
    if site in plan.protected and not stays.all():
        raise PlanError(f"{site.key} is protected, and an edit removes units of it.", "Leave out one of the two.")
    return np.flatnonzero(stays)


def _removed_layers(plan: PruningPlan, layers: Mapping[Layer, bool]) -> set[Layer]:
    gone = set(plan.removed_layers)
    for layer, kept in layers.items():
        (gone.discard if kept else gone.add)(layer)
    if gone and len(plan.layout.stacks) > 1:
        raise PlanError(
            "Removing whole layers is defined for decoders, and this model has an encoder too.",
            "Remove units of the layer instead.",
        )
    if gone >= {(site.stack, site.layer) for site in plan.layout}:
        raise PlanError("A model keeps at least one layer.", "Leave out an edit that removes a layer.")
    held = {(site.stack, site.layer) for site in plan.protected}
    if gone & held:
        raise PlanError(f"Layer {min(gone & held)[1]} is protected and removed.", "Leave out one of the two.")
    return gone


def _verb(kept: bool) -> str:
    return KEEP if kept else REMOVE


def _ranges(units: list[int]) -> str:
    """E.g. "3,7-9" for 3, 7, 8, 9."""
    runs: list[list[int]] = []
    for unit in units:
        if runs and unit == runs[-1][-1] + 1:
            runs[-1].append(unit)
        else:
            runs.append([unit])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _verb_and_target(word: str) -> tuple[bool, str]:
    verb, _, target = word.strip().partition(" ")
    if verb not in (KEEP, REMOVE) or target.count(".") not in (1, 3):
        raise _no_edit(word)
    return verb == KEEP, target.strip()


def _layer(target: str, word: str) -> Layer:
    stack, _, number = target.partition(".")
    return stack, _number(number, word)


def _site_and_units(target: str, word: str, layout: Layout) -> tuple[Site, list[int]]:
    key, _, listed = target.rpartition(".")
    try:
        site = Site.from_key(key)
    except ValueError:
        raise _no_edit(word) from None
    if site not in layout.sites:
        raise PlanError(f"There is no {key[:60]} in this model.", HOW)
    units, found = layout[site].units, list[int]()
    for part in listed.split(","):
        first, dash, last = part.partition("-")
        start, end = _number(first, word), _number(last if dash else first, word)
        if not start <= end < units:
            raise PlanError(f"{part[:60]!r} names no {layout[site].kind}s of {key}.", f"They are 0 to {units - 1:,}.")
        found += range(start, end + 1)
    return site, found


def _number(text: str, word: str) -> int:
    text = text.strip()
    if not (text.isdecimal() and text.isascii() and len(text) <= 8):
        raise _no_edit(word)
    return int(text)


def _no_edit(word: str) -> PlanError:
    return PlanError(f"{word[:60]!r} is no edit of a plan.", HOW)
