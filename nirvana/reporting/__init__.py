"""Figures, HTML, wording and code of runs and studies. No streamlit, no torch."""
