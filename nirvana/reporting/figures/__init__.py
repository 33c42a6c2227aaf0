"""Figures: pure functions from data to a Chart. Imports neither streamlit nor torch."""
