"""A run as one HTML file that needs no network and no server. No streamlit and no torch is loaded for it."""
