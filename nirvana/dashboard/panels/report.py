"""The report of the open run as one file."""

from __future__ import annotations

import re

import streamlit as st

from nirvana.reporting.html.report import report_html
from nirvana.runs.run import Run


def report_download(run: Run) -> None:
    """The button that creates and downloads the report."""
    st.download_button(
        "Download the report (HTML)",
        data=lambda: report_html(run).encode(),
        file_name=f"{re.sub(r'[^A-Za-z0-9._-]+', '-', run.name).strip('-.') or 'report'}.html",
        mime="text/html",
        key="compare.report",
        icon=":material/description:",
        on_click="ignore",
        help="All results of this run in one file: charts, tables, protocols, recipe and versions. It works offline.",
    )
