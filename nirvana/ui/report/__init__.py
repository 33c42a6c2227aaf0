"""A run as one HTML file that needs no network and no server. No streamlit and no torch is loaded for it."""

from nirvana.ui.report.report import report_html

__all__ = ["report_html"]
