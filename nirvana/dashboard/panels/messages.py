"""Errors, notes and links of all pages."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.errors import StreamlitPageNotFoundError

from nirvana.dashboard.guide import GUIDES
from nirvana.errors import NirvanaError
from nirvana.reporting.text import plain


def show_error(error: NirvanaError | None) -> None:
    """An error with its hint."""
    if error is not None:
        message(error.message, error.hint)


def message(what: str, hint: str = "") -> None:
    """An error box: the message in bold, the hint below it. Both are escaped, since they quote names."""
    st.error(f"**{plain(what)}**" + (f"\n\n{plain(hint)}" if hint else ""), icon=":material/error:")


def show_notes(notes: Sequence[str]) -> None:
    """Notes of a plan's constraints, in one box."""
    if notes:
        lines = [plain(note) for note in notes]
        st.info("\n".join(f"- {line}" for line in lines) if len(lines) > 1 else lines[0], icon=":material/info:")


def page_link(key: str, label: str = "") -> None:
    """A link to a page; plain text where a page runs alone."""
    guide = GUIDES[key]
    text = label or f"Go to {guide.title}"
    try:
        st.page_link(guide.path, label=text, icon=guide.icon)
    except (StreamlitPageNotFoundError, KeyError):
        st.markdown(f"{guide.icon} {text}")
