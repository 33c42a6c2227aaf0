"""The folder of the dashboard's main script, its pages and its settings."""

from __future__ import annotations

from pathlib import Path

import nirvana

PACKAGE = Path(nirvana.__file__).parent


def site_folder() -> Path:
    """The checkout that holds the package, or the copy in a wheel; both hold app.py, pages/ and .streamlit/.

    Streamlit reads settings and theme from the folder of its main script, whatever the working directory is.
    """
    checkout = PACKAGE.parent
    is_checkout = all((checkout / name).exists() for name in ("app.py", "pages", ".streamlit/config.toml"))
    return checkout if is_checkout else PACKAGE / "dashboard" / "site"
