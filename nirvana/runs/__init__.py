"""Runs: a recipe, and the results of its steps in a folder."""
