"""A run as one HTML file without network or server. Imports neither streamlit nor torch."""
