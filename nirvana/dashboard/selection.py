"""The selection: one stack, layer, unit and criterion for all pages, in the URL.

Query parameters: `stack`, `layer`, `unit` (module and number, e.g. `mlp.345`) and `criterion`, beside `run`. Values of
a link are validated against the open run; an invalid one is replaced by a valid one, and a notice names it. The
criterion is that of the draft recipe; the others are views, which change no result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from nirvana.layout import MLP, Layout, Site
from nirvana.runs.recipe import Recipe
from nirvana.saliency.criteria import available

SELECTED, WRITTEN, NOTICES = "nirvana.selected", "nirvana.written", "nirvana.link_notices"
NAMES = ("stack", "layer", "unit", "criterion")
SHOWN = 40  # characters of a foreign value in a notice


@dataclass(frozen=True)
class Selection:
    """The chosen place in a model. Without `unit`, a layer is chosen; the module is then that of the last unit.

    `stack` is empty and `layer` None where none was chosen yet.
    """

    stack: str = ""
    layer: int | None = None
    module: str = MLP
    unit: int | None = None

    def within(self, layout: Layout) -> Selection:
        """The nearest selection that the model has: by default its first stack and layer, and no unit."""
        stack = self.stack if self.stack in layout.stacks else layout.stacks[0]
        layers = layout.layers(stack)
        layer = self.layer if self.layer in layers else layers[0]
        modules = [site.module for site in layout if (site.stack, site.layer) == (stack, layer)]
        module = self.module if self.module in modules else modules[-1]
        there = (stack, layer, module) == (self.stack or stack, self.layer, self.module)
        units = layout[Site(stack, layer, module)].units
        unit = self.unit if there and self.unit is not None and self.unit < units else None
        return Selection(stack, layer, module, unit)

    @property
    def site(self) -> Site:
        """The module of the selection, which must be `within` a layout."""
        assert self.layer is not None
        return Site(self.stack, self.layer, self.module)

    @property
    def parameters(self) -> dict[str, str]:
        """The chosen values as query parameters."""
        unit = "" if self.unit is None else f"{self.module}.{self.unit}"
        found = {"stack": self.stack, "layer": "" if self.layer is None else str(self.layer), "unit": unit}
        return {name: value for name, value in found.items() if value}


def selected(layout: Layout) -> Selection:
    """The selection within the open run's model."""
    return _chosen().within(layout)


def chosen() -> bool:
    """Whether this session or its link chose a place in a model."""
    return bool(_chosen().parameters)


def choose(layout: Layout, **values: Any) -> None:
    """Select `stack`, `layer`, `module` or `unit`, on all pages and in the URL. Another stack, layer or module clears
    the unit unless it is given.
    """
    before = selected(layout)
    after = replace(before, **values)
    if "unit" not in values and (after.stack, after.layer, after.module) != (before.stack, before.layer, before.module):
        after = replace(after, unit=None)
    st.session_state[SELECTED] = after.within(layout)
    _write(st.session_state[SELECTED].parameters)


def follow_link(recipe: Recipe, layout: Layout | None) -> Recipe:
    """Select what the URL names, and write the selection to it; returns the draft `recipe` with the URL's criterion.

    Only values that this session has not written itself count: the browser may send an earlier one. Without a `layout`,
    before a model is loaded, places in a model are left in the URL as they are.
    """
    written: dict[str, set[str]] = st.session_state.setdefault(WRITTEN, {name: set() for name in NAMES})
    asked = {name: st.query_params[name] for name in NAMES if name in st.query_params}
    foreign = {name: value for name, value in asked.items() if value not in written[name]}
    if "criterion" in foreign:
        recipe = _with_criterion(recipe, foreign.pop("criterion"))
    if layout is not None and foreign:
        st.session_state[SELECTED] = _read(foreign, _chosen(), layout)
    shown = {} if layout is None else _chosen().parameters and selected(layout).parameters
    _write(shown | {"criterion": recipe.saliency.criterion}, clear=layout is not None)
    return recipe


def take_notices() -> list[str]:
    """Notices about values of a link that were replaced, once."""
    found: list[str] = st.session_state.pop(NOTICES, [])
    return found


def stack_control(layout: Layout, key: str) -> str:
    """Encoder or decoder, where there are two; under widget key `key`."""
    stacks = layout.stacks
    if len(stacks) == 1:
        return stacks[0]
    st.session_state[key] = selected(layout).stack
    st.segmented_control(
        "Stack",
        stacks,
        key=key,
        required=True,
        wrap=True,
        format_func=str.capitalize,
        help="The encoder reads the input; the decoder generates the output, with cross-attention to the encoder.",
        on_change=take(layout, key, "stack"),
    )
    return selected(layout).stack


def layer_control(layout: Layout, key: str, help: str = "") -> int:
    """The layer of the selected stack, under widget key `key`."""
    now = selected(layout)
    st.session_state[key] = now.layer
    st.select_slider(
        "Layer",
        layout.layers(now.stack),
        key=key,
        help=help or "Also chosen by a click on a layer in a chart of any page.",
        on_change=take(layout, key, "layer"),
    )
    return int(now.layer or 0)


def take(layout: Layout, key: str, name: str) -> Callable[[], None]:
    """Callback of a widget with that key: select its value as `name`, e.g. "layer"."""

    def select() -> None:
        value = st.session_state.get(key)
        if value is not None:
            choose(layout, **{name: value})

    return select


def _chosen() -> Selection:
    found: Selection = st.session_state.get(SELECTED, Selection())
    return found


def _with_criterion(recipe: Recipe, criterion: str) -> Recipe:
    if criterion in available():
        return recipe.change("saliency", criterion=criterion)
    _notice(f"criterion {_quoted(criterion)}, which does not exist. It stays {recipe.saliency.criterion}.")
    return recipe


def _read(asked: Mapping[str, str], before: Selection, layout: Layout) -> Selection:
    """The selection that query parameters name, the nearest valid one with notices."""
    found = before.within(layout)
    if "stack" in asked:
        if asked["stack"] in layout.stacks:
            found = replace(found, stack=asked["stack"], unit=None).within(layout)
        else:
            has = f"this model has {' and '.join(layout.stacks)}"
            _notice(f"stack {_quoted(asked['stack'])}; {has}. {found.stack} is shown.")
    if "layer" in asked:
        layers = layout.layers(found.stack)
        number = _number(asked["layer"])
        if number in layers:
            found = replace(found, layer=number, unit=None).within(layout)
        else:
            has = f"this model's {found.stack} has layers {layers[0]} to {layers[-1]}"
            _notice(f"layer {_quoted(asked['layer'])}; {has}. Layer {found.layer} is shown.")
    if "unit" in asked:
        module, _, text = asked["unit"].rpartition(".")
        site, number = Site(found.stack, found.layer or 0, module), _number(text)
        if site in layout and number is not None and number < layout[site].units:
            found = replace(found, module=module, unit=number)
        else:
            last = {each.module: layout[each].units - 1 for each in layout if each[:2] == (found.stack, found.layer)}
            has = " and ".join(f"{name}.0 to {name}.{units}" for name, units in last.items())
            _notice(f"unit {_quoted(asked['unit'])}; layer {found.layer} has {has}. No unit is chosen.")
            found = replace(found, unit=None)
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 8 else None


def _quoted(value: str) -> str:
    return repr(value if len(value) <= SHOWN else f"{value[:SHOWN]}…")


def _notice(text: str) -> None:
    st.session_state.setdefault(NOTICES, []).append(f"The link names {text}")


def _write(values: Mapping[str, str], *, clear: bool = True) -> None:
    """Write query parameters where they differ; with `clear`, remove those of a place that are not given."""
    written: dict[str, set[str]] = st.session_state.setdefault(WRITTEN, {name: set() for name in NAMES})
    for name, value in values.items():
        written[name].add(value)
        if st.query_params.get(name) != value:
            st.query_params[name] = value
    for name in ("stack", "layer", "unit"):
        if clear and name not in values and name in st.query_params:
            del st.query_params[name]
