"""Widgets whose limits, help and starting value come from a schema's field."""

from __future__ import annotations

from typing import Any

import streamlit as st

from nirvana.schema import Schema, limits, options

LARGEST = 2**53 - 1  # whole numbers that a browser keeps exactly


def whole_number(
    label: str, values: Schema, name: str, help: str = "", *, key: str = "", step: int = 1, most: int = LARGEST
) -> int:
    """A number input for a whole-number field of `values`; its key is `<section>.<name>` unless `key` is given.

    Args:
        most: upper limit, if below the field's.
    """
    schema = type(values)
    key = key or f"{schema.section}.{name}"
    bounds: dict[str, Any] = limits(schema, name)
    bounds["max_value"] = min(bounds["max_value"], most)
    st.session_state.setdefault(key, min(getattr(values, name), bounds["max_value"]))
    return int(st.number_input(label, **bounds, step=step, key=key, help=help or f"{options(schema)[name].help}."))
