"""Saliency criteria: (model, calibration set) -> one score per unit."""
