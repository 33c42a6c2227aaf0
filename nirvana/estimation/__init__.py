"""Predicted memory and time of each step, from the sizes of a model alone. No torch."""
