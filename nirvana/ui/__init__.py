"""The dashboard's state, figures and panels. Imports no torch."""
