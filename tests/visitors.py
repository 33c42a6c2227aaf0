"""Sessions of visitors of a public demo."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def as_visitor(app: AppTest, name: str) -> AppTest:
    """The session of a visitor, whose runs are those of `Store().of(name)`."""
    app.session_state["nirvana.visitor"] = name
    return app
