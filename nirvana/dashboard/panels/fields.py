"""Widgets whose limits, help and starting value come from a schema's field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nirvana.schema import Schema, limits, options

LARGEST = 2**53 - 1  # whole numbers that a browser keeps exactly


def whole_number(
    label: str,
    values: Schema,
    name: str,
    help: str = "",
    *,
    key: str = "",
    step: int = 1,
    most: int = LARGEST,
    disabled: bool = False,
    container: DeltaGenerator | None = None,
) -> int:
    """A number input for a whole-number field of `values`; its key is `<section>.<name>` unless `key` is given.

    Args:
        most: upper limit, if below the field's.
        container: of the widget, if not the current one.
    """
    schema = type(values)
    key = key or f"{schema.section}.{name}"
    bounds: dict[str, Any] = limits(schema, name)
    bounds["max_value"] = min(bounds["max_value"], most)
    st.session_state.setdefault(key, min(getattr(values, name), bounds["max_value"]))
    words = help or f"{options(schema)[name].help}."
    place: Any = container or st
    return int(place.number_input(label, **bounds, step=step, key=key, disabled=disabled, help=words))


def real_number(
    label: str,
    values: Schema,
    name: str,
    help: str = "",
    *,
    key: str,
    step: float,
    least: float = 0.0,
    most: float = LARGEST,
    format: str | None = None,
    disabled: bool = False,
) -> float:
    """A number input for a field of `values` with fractions.

    Args:
        least, most: limits, if within the field's; they replace bounds that the field excludes.
        format: of the shown number, e.g. "%.1e".
    """
    bounds = limits(type(values), name)
    low, high = max(bounds["min_value"], least), min(bounds["max_value"], float(most))
    st.session_state.setdefault(key, min(max(float(getattr(values, name)), low), high))
    return float(
        st.number_input(
            label,
            min_value=low,
            max_value=high,
            step=step,
            format=format,
            key=key,
            disabled=disabled,
            help=help or f"{options(type(values))[name].help}.",
        )
    )


def one_of(label: str, values: Schema, name: str, names: Mapping[str, str], *, key: str, disabled: bool = False) -> str:
    """A select box for a field of `values` whose words are the keys of `names`."""
    st.session_state.setdefault(key, getattr(values, name))
    words = options(type(values))[name].help
    return str(
        st.selectbox(label, list(names), key=key, format_func=names.__getitem__, disabled=disabled, help=f"{words}.")
    )
