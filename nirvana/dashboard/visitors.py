"""Visitors of a public demo: who looks at a page."""

from __future__ import annotations

import hashlib
import secrets

import streamlit as st

VISITOR = "nirvana.visitor"
COOKIE = "_streamlit_xsrf"  # set by the server before the first page, 16 random bytes, kept until the browser is closed
SHORTEST = 16  # bytes of a token that nobody guesses


def visitor() -> str:
    """Name of the visitor who looks at this page: a hash of the browser's cookie, so that a reload finds the same runs,
    and the address of a page, which can be shared, does not give them away. Without a cookie it is random and lasts for
    the session.
    """
    if VISITOR not in st.session_state:
        token = browser_token(st.context.cookies.get(COOKIE)) or secrets.token_bytes(SHORTEST)
        st.session_state[VISITOR] = hashlib.sha256(b"visitor " + token).hexdigest()[:32]
    return str(st.session_state[VISITOR])


def browser_token(cookie: object) -> bytes | None:
    """The random token in the cookie against cross-site requests, "2|mask|token xor mask|time" in hexadecimal digits;
    the mask changes with each response. None where the cookie is missing or another.
    """
    parts = cookie.strip("\"'").split("|") if isinstance(cookie, str) else []
    if len(parts) != 4 or parts[0] != "2":
        return None
    try:
        mask, masked = (bytes.fromhex(part) for part in parts[1:3])
    except ValueError:
        return None
    if len(mask) != 4 or len(masked) < SHORTEST:
        return None
    return bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked))
