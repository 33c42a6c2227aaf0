"""Measurements of a model, each with its protocol."""
