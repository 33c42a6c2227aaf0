"""A number in a card."""

from __future__ import annotations

import streamlit as st


def metric(label: str, value: str, detail: str = "", meaning: str | None = None) -> None:
    """`value` under its label, with a neutral `detail` below (omitted where it is not a number) and a help text."""
    st.metric(
        label,
        value,
        delta=None if "nan" in detail else detail or None,
        delta_color="off",
        delta_arrow="off",
        border=True,
        height="stretch",
        help=meaning,
    )
