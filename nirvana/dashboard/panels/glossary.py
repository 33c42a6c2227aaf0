"""The glossary as a tab of the Method page."""

from __future__ import annotations

import streamlit as st

from nirvana.dashboard.guide import GUIDES
from nirvana.dashboard.panels import page
from nirvana.reporting.glossary import TERMS, Term


def glossary() -> None:
    """All terms by name, or those that contain a word."""
    wanted = st.text_input("Find a term", key="method.glossary.find", placeholder="e.g. saliency").strip().lower()
    found = [term for term in sorted(TERMS, key=lambda term: term.name.lower()) if wanted in _searched(term)]
    if not found:
        st.caption("No term contains that.")
    for term in found:
        words, link = st.columns([6, 1], vertical_alignment="center")
        words.markdown(f"**{term.name[0].upper()}{term.name[1:]}**: {term.text}")
        if term.page in GUIDES and term.page not in ("method", "home"):
            with link:
                page.page_link(term.page, GUIDES[term.page].title)


def _searched(term: Term) -> str:
    return " ".join((term.name, *term.others, term.text)).lower()
