"""Figures, HTML, wording and code of runs and studies. Imports neither streamlit nor torch."""
