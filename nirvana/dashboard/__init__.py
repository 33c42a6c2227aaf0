"""The Streamlit dashboard: session state and the panels that pages share. Imports no torch."""
