"""Figures: pure functions from data to a Chart. No streamlit, no torch."""
